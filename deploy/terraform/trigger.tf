resource "google_cloudbuild_trigger" "train" {
  count           = var.build_repository == null ? 0 : 1
  name            = "endcap-train"
  location        = var.region
  filename        = "deploy/cloudbuild/train.yaml"
  service_account = google_service_account.build.id

  repository_event_config {
    repository = var.build_repository
    push {
      branch = "^main$"
    }
  }

  substitutions = {
    _DEVICE              = "cuda"
    _IMAGE_NAME          = "endcap-train-cuda"
    _DOCKERFILE          = "deploy/Dockerfile"
    _VERTEX_TRAIN_CONFIG = "deploy/vertex/l4.yaml"
    _REGION              = var.region
    _REPOSITORY          = google_artifact_registry_repository.images.repository_id
    _ARTIFACT_BUCKET     = google_storage_bucket.artifacts.name
    _SERVICE_ACCOUNT     = google_service_account.train.email
    _NETWORK             = "projects/${data.google_project.this.number}/global/networks/${google_compute_network.jobs.name}"
    _TORCH_INDEX         = var.torch_index
  }

  depends_on = [google_project_service.api]
}
