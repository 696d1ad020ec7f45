# Who trains: the least that a job needs, each role where it is needed and nowhere else where that can be said.
resource "google_service_account" "train" {
  account_id   = "endcap-train"
  display_name = "Endcap's training jobs"
}

resource "google_project_iam_member" "train" {
  for_each = toset([
    "roles/aiplatform.user",
    "roles/bigquery.jobUser",
    "roles/logging.logWriter",
  ])
  project = var.project_id
  role    = each.value
  member  = google_service_account.train.member
}

resource "google_bigquery_dataset_iam_member" "train_reads" {
  for_each = {
    recsys = google_bigquery_dataset.recsys.dataset_id
    drift  = google_bigquery_dataset.drift.dataset_id
  }
  dataset_id = each.value
  role       = "roles/bigquery.dataViewer"
  member     = google_service_account.train.member
}

resource "google_storage_bucket_iam_member" "train_artifacts" {
  bucket = google_storage_bucket.artifacts.name
  role   = "roles/storage.objectAdmin"
  member = google_service_account.train.member
}

resource "google_secret_manager_secret_iam_member" "train_wandb" {
  secret_id = google_secret_manager_secret.wandb.id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.train.member
}

resource "google_artifact_registry_repository_iam_member" "train_pull" {
  location   = google_artifact_registry_repository.images.location
  repository = google_artifact_registry_repository.images.name
  role       = "roles/artifactregistry.reader"
  member     = google_service_account.train.member
}

# Who builds: writes images and logs, and submits jobs that run as the one above.
resource "google_service_account" "build" {
  account_id   = "endcap-build"
  display_name = "Endcap's image builds"
}

resource "google_artifact_registry_repository_iam_member" "build_push" {
  location   = google_artifact_registry_repository.images.location
  repository = google_artifact_registry_repository.images.name
  role       = "roles/artifactregistry.writer"
  member     = google_service_account.build.member
}

resource "google_project_iam_member" "build" {
  for_each = toset([
    "roles/aiplatform.user",
    "roles/logging.logWriter",
  ])
  project = var.project_id
  role    = each.value
  member  = google_service_account.build.member
}

resource "google_service_account_iam_member" "build_acts_as_train" {
  service_account_id = google_service_account.train.name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.build.member
}

# A key of one's own: the services that encrypt with it.
data "google_storage_project_service_account" "this" {}

locals {
  kms_users = var.kms_key == null ? {} : {
    storage  = data.google_storage_project_service_account.this.member
    bigquery = "serviceAccount:bq-${data.google_project.this.number}@bigquery-encryption.iam.gserviceaccount.com"
    registry = "serviceAccount:service-${data.google_project.this.number}@gcp-sa-artifactregistry.iam.gserviceaccount.com"
  }
}

resource "google_kms_crypto_key_iam_member" "service" {
  for_each      = local.kms_users
  crypto_key_id = var.kms_key
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = each.value
}
