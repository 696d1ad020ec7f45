"""Raw exports in, checked event, item and user tables out."""
