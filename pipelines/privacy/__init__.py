"""Personal data and secrets: found by shape first and by rules then, replaced or a reason to drop the document."""
