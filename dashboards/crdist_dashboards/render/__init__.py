"""Views drawn: by matplotlib for print, by HoloViews for the dashboard and notebooks."""
