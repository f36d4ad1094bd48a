//! Instances, devices and backends of the Kiln monitor
