"""From a CT file to training samples: volumes, patches, manifests, phantoms.

The name is also that of a Hugging Face package; see tests/test_datasets_name.py for how both live in one environment.
"""

import logging

# transformers imports torchao, and that makes torch print two lines about torchao's own enumerations; every script
# imports this package before either
logging.getLogger("torch.utils._pytree").addFilter(lambda record: "register_constant" not in record.getMessage())
