output "artifact_bucket" {
  description = "ARTIFACT_BUCKET of a job."
  value       = google_storage_bucket.artifacts.name
}

output "image_repository" {
  description = "Where images go: put a name and a tag behind it."
  value       = "${var.region}-docker.pkg.dev/${var.project_id}/${google_artifact_registry_repository.images.repository_id}"
}

output "train_service_account" {
  description = "The account that jobs run as."
  value       = google_service_account.train.email
}

output "job_network" {
  description = "The network that jobs run in, as Vertex AI wants it."
  value       = "projects/${data.google_project.this.number}/global/networks/${google_compute_network.jobs.name}"
}
