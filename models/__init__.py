"""Networks: encoders, mask decoder, projector, language-model wrapper, losses and checkpoints."""

import logging

# transformers imports torchao, and that makes torch print two lines about torchao's own enumerations.
logging.getLogger("torch.utils._pytree").addFilter(lambda record: "register_constant" not in record.getMessage())
