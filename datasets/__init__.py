"""From a CT file to training samples: volumes, patches, manifests, phantoms.

The name is also that of a Hugging Face package; see tests/test_datasets_name.py for how both live in one environment.
"""
