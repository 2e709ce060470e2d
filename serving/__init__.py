"""The page: an HTTP server around `models.CTInstruct`, and what it shows in `static/`.  See docs/page.md."""
