resource "google_bigquery_dataset" "recsys" {
  dataset_id = "recsys"
  location   = var.region
  labels     = local.labels

  dynamic "default_encryption_configuration" {
    for_each = var.kms_key[*]
    content {
      kms_key_name = default_encryption_configuration.value
    }
  }

  depends_on = [google_project_service.api]
}

resource "google_bigquery_dataset" "drift" {
  dataset_id = "drift"
  location   = var.region
  labels     = local.labels

  dynamic "default_encryption_configuration" {
    for_each = var.kms_key[*]
    content {
      kms_key_name = default_encryption_configuration.value
    }
  }

  depends_on = [google_project_service.api]
}

# The columns of docs/jobs.md. Days are partitions, and go after log_retention_days.
resource "google_bigquery_table" "requests" {
  dataset_id = google_bigquery_dataset.recsys.dataset_id
  table_id   = "requests"
  clustering = ["request_id"]

  time_partitioning {
    type          = "DAY"
    field         = "request_time"
    expiration_ms = var.log_retention_days * 24 * 60 * 60 * 1000
  }

  schema = jsonencode([
    { name = "request_id", type = "STRING", mode = "REQUIRED" },
    { name = "user_key", type = "STRING", mode = "REQUIRED", description = "A keyed hash of the user's id." },
    { name = "request_time", type = "TIMESTAMP", mode = "REQUIRED" },
    { name = "release_digest", type = "STRING", mode = "REQUIRED" },
    { name = "surface", type = "STRING", mode = "NULLABLE" },
    { name = "item_ids", type = "STRING", mode = "REPEATED" },
    { name = "scores", type = "FLOAT64", mode = "REPEATED" },
    { name = "positions", type = "INT64", mode = "REPEATED" },
    { name = "propensities", type = "FLOAT64", mode = "REPEATED" },
    { name = "experiment", type = "STRING", mode = "NULLABLE" },
    { name = "variant", type = "STRING", mode = "NULLABLE" },
  ])
}

resource "google_bigquery_table" "feedback" {
  dataset_id = google_bigquery_dataset.recsys.dataset_id
  table_id   = "feedback"
  clustering = ["request_id"]

  time_partitioning {
    type          = "DAY"
    field         = "event_time"
    expiration_ms = var.log_retention_days * 24 * 60 * 60 * 1000
  }

  schema = jsonencode([
    { name = "request_id", type = "STRING", mode = "REQUIRED" },
    { name = "item_id", type = "STRING", mode = "REQUIRED" },
    { name = "event_type", type = "STRING", mode = "REQUIRED" },
    { name = "event_time", type = "TIMESTAMP", mode = "REQUIRED" },
    { name = "value", type = "FLOAT64", mode = "NULLABLE" },
  ])
}

resource "google_bigquery_table" "drift" {
  dataset_id = google_bigquery_dataset.drift.dataset_id
  table_id   = "hourly"
  clustering = ["feature", "statistic"]

  time_partitioning {
    type          = "DAY"
    field         = "hour"
    expiration_ms = var.log_retention_days * 24 * 60 * 60 * 1000
  }

  schema = jsonencode([
    { name = "hour", type = "TIMESTAMP", mode = "REQUIRED" },
    { name = "feature", type = "STRING", mode = "REQUIRED" },
    { name = "statistic", type = "STRING", mode = "REQUIRED" },
    { name = "value", type = "FLOAT64", mode = "NULLABLE" },
    { name = "reference_version", type = "STRING", mode = "NULLABLE" },
    { name = "count", type = "INT64", mode = "NULLABLE" },
  ])
}
