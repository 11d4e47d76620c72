"""The tabs of the app, each filled when it is first opened."""
