"""The served app: state, live figures, tabs and downloads. It lays out views and computes nothing."""
