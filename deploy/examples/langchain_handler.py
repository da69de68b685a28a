"""Every answer of a LangChain model is screened: pip install 'guardline[langchain]'; GUARDLINE_KAFKA_BOOTSTRAP=..."""

from langchain_core.language_models import FakeListChatModel

from monitor.producers.langchain import GuardlineHandler

model = FakeListChatModel(responses=["Remdesivir is given as a 400 mg loading dose on day 1."])  # yours
config = {"callbacks": [GuardlineHandler()], "metadata": {"tenant": "riverside", "conversation_id": "c-17"}}
for chunk in model.stream("How is remdesivir given?", config=config):
    print(chunk.content, end="")
