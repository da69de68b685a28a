"""Every answer that LiteLLM gets is screened: pip install 'guardline[litellm]'; GUARDLINE_KAFKA_BOOTSTRAP=kafka:9092.

With LiteLLM's proxy, in its configuration: litellm_settings: {callbacks: monitor.producers.litellm.callback}
"""

import litellm

from monitor.producers.litellm import GuardlineLogger

litellm.callbacks = [GuardlineLogger()]
asked = [{"role": "user", "content": "How is remdesivir given?"}]
litellm.completion("gpt-4o-mini", asked, mock_response="Remdesivir is given as a 400 mg loading dose on day 1.")
