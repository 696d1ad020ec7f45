variable "project_id" {
  description = "The project that everything is made in."
  type        = string
}

variable "region" {
  description = "Where data, images and jobs are: all of them in one region, which must offer the GPU that jobs ask for."
  type        = string
  default     = "us-central1"
}

variable "artifact_bucket" {
  description = "The bucket of staged data, checkpoints and releases; null: the project's name and `-endcap`."
  type        = string
  default     = null
}

variable "kms_key" {
  description = "A key of your own that encrypts the bucket, the datasets and the images; null: Google's."
  type        = string
  default     = null
}

variable "log_retention_days" {
  description = "How long the tables of requests, feedback and drift keep a day."
  type        = number
  default     = 90

  validation {
    condition     = var.log_retention_days >= 1
    error_message = "log_retention_days must be at least 1."
  }
}

variable "checkpoint_retention_days" {
  description = "How long checkpoints stay after they were written."
  type        = number
  default     = 30
}

variable "build_repository" {
  description = "The repository whose pushes to main build images: the resource name of a connected Cloud Build repository (projects/P/locations/R/connections/C/repositories/NAME); null: no trigger."
  type        = string
  default     = null
}

variable "torch_index" {
  description = "Where builds find PyTorch's wheels for CUDA 12.8; empty: the configured package index alone."
  type        = string
  default     = ""
}

variable "access_policy" {
  description = "Number of the organization's access policy: puts a service perimeter around the project, without which machines that Google runs for a job still reach the internet; null: none."
  type        = string
  default     = null
}
