"""What can be seen of a store: functions from data to the records of `crdist_dashboards.records`."""
