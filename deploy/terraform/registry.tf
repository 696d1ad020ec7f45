resource "google_artifact_registry_repository" "images" {
  repository_id = "endcap"
  location      = var.region
  format        = "DOCKER"
  labels        = local.labels
  kms_key_name  = var.kms_key

  # The latest builds stay; what no tag names goes after a month.
  cleanup_policies {
    id     = "keep-latest-builds"
    action = "KEEP"
    most_recent_versions {
      keep_count = 20
    }
  }

  cleanup_policies {
    id     = "delete-untagged"
    action = "DELETE"
    condition {
      tag_state  = "UNTAGGED"
      older_than = "2592000s"
    }
  }

  depends_on = [google_project_service.api]
}
