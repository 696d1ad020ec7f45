# The place of the key alone. Its value is added by hand, so that it stands in no file and in no state:
#   gcloud secrets versions add wandb-api-key --data-file=-
resource "google_secret_manager_secret" "wandb" {
  secret_id = "wandb-api-key"
  labels    = local.labels

  replication {
    user_managed {
      replicas {
        location = var.region
      }
    }
  }

  depends_on = [google_project_service.api]
}
