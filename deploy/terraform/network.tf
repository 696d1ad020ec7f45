# A network with no way in, and a way out to Google's storage, warehouse and training APIs alone.
resource "google_compute_network" "jobs" {
  name                    = "endcap-jobs"
  auto_create_subnetworks = false
  depends_on              = [google_project_service.api]
}

resource "google_compute_subnetwork" "jobs" {
  name                     = "endcap-jobs"
  network                  = google_compute_network.jobs.id
  region                   = var.region
  ip_cidr_range            = "10.10.0.0/20"
  private_ip_google_access = true

  log_config {
    aggregation_interval = "INTERVAL_10_MIN"
    flow_sampling        = 0.5
    metadata             = "INCLUDE_ALL_METADATA"
  }
}

resource "google_compute_firewall" "no_way_in" {
  name          = "endcap-no-way-in"
  network       = google_compute_network.jobs.id
  direction     = "INGRESS"
  priority      = 65000
  source_ranges = ["0.0.0.0/0"]

  deny {
    protocol = "all"
  }
}

# The workers of one job talk to each other: torchrun's ranks.
resource "google_compute_firewall" "between_workers" {
  name          = "endcap-between-workers"
  network       = google_compute_network.jobs.id
  direction     = "INGRESS"
  priority      = 1000
  source_ranges = [google_compute_subnetwork.jobs.ip_cidr_range, local.peered_range]

  allow {
    protocol = "tcp"
  }
}

resource "google_compute_firewall" "no_way_out" {
  name               = "endcap-no-way-out"
  network            = google_compute_network.jobs.id
  direction          = "EGRESS"
  priority           = 65000
  destination_ranges = ["0.0.0.0/0"]

  deny {
    protocol = "all"
  }
}

resource "google_compute_firewall" "to_workers" {
  name               = "endcap-to-workers"
  network            = google_compute_network.jobs.id
  direction          = "EGRESS"
  priority           = 1000
  destination_ranges = [google_compute_subnetwork.jobs.ip_cidr_range, local.peered_range]

  allow {
    protocol = "tcp"
  }
}

resource "google_compute_firewall" "to_apis" {
  name               = "endcap-to-apis"
  network            = google_compute_network.jobs.id
  direction          = "EGRESS"
  priority           = 1000
  destination_ranges = ["199.36.153.4/30"] # restricted.googleapis.com

  allow {
    protocol = "tcp"
    ports    = ["443"]
  }
}

locals {
  peered_range = "10.20.0.0/16"
  restricted   = ["199.36.153.4", "199.36.153.5", "199.36.153.6", "199.36.153.7"]
  # Only these names are known in the network: any other of Google's APIs doesn't resolve.
  reachable = toset([
    "aiplatform",
    "${var.region}-aiplatform",
    "bigquery",
    "bigquerystorage",
    "logging",
    "oauth2",
    "secretmanager",
    "storage",
  ])
}

resource "google_dns_managed_zone" "apis" {
  name       = "endcap-googleapis"
  dns_name   = "googleapis.com."
  visibility = "private"

  private_visibility_config {
    networks {
      network_url = google_compute_network.jobs.id
    }
  }

  depends_on = [google_project_service.api]
}

resource "google_dns_record_set" "api" {
  for_each     = local.reachable
  managed_zone = google_dns_managed_zone.apis.name
  name         = "${each.value}.googleapis.com."
  type         = "A"
  ttl          = 300
  rrdatas      = local.restricted
}

resource "google_dns_managed_zone" "images" {
  name       = "endcap-images"
  dns_name   = "pkg.dev."
  visibility = "private"

  private_visibility_config {
    networks {
      network_url = google_compute_network.jobs.id
    }
  }

  depends_on = [google_project_service.api]
}

resource "google_dns_record_set" "images" {
  managed_zone = google_dns_managed_zone.images.name
  name         = "${var.region}-docker.pkg.dev."
  type         = "A"
  ttl          = 300
  rrdatas      = local.restricted
}

# Vertex AI runs a job's machines in a network of its own, joined to this one.
resource "google_compute_global_address" "peered" {
  name          = "endcap-peered"
  network       = google_compute_network.jobs.id
  purpose       = "VPC_PEERING"
  address_type  = "INTERNAL"
  address       = cidrhost(local.peered_range, 0)
  prefix_length = tonumber(split("/", local.peered_range)[1])
}

resource "google_service_networking_connection" "vertex" {
  network                 = google_compute_network.jobs.id
  service                 = "servicenetworking.googleapis.com"
  reserved_peering_ranges = [google_compute_global_address.peered.name]
}

# The perimeter binds those machines too: data leave the project for no other.
resource "google_access_context_manager_service_perimeter" "project" {
  count  = var.access_policy == null ? 0 : 1
  parent = "accessPolicies/${var.access_policy}"
  name   = "accessPolicies/${var.access_policy}/servicePerimeters/endcap"
  title  = "endcap"

  status {
    resources           = ["projects/${data.google_project.this.number}"]
    restricted_services = ["aiplatform.googleapis.com", "bigquery.googleapis.com", "storage.googleapis.com"]

    vpc_accessible_services {
      enable_restriction = true
      allowed_services = [
        "aiplatform.googleapis.com",
        "artifactregistry.googleapis.com",
        "bigquery.googleapis.com",
        "logging.googleapis.com",
        "secretmanager.googleapis.com",
        "storage.googleapis.com",
      ]
    }
  }
}
