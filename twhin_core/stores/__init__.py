"""Object stores: `gs://`, `s3://` and `abfs://` behind one interface, which `storage` gives to all others."""
