"""LangChain: find the text that answers a question, and stream an answer from it."""

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.vectorstores import InMemoryVectorStore

from hybrid_infer import HybridClient
from hybrid_infer.adapters.langchain import ChatHybridInfer, HybridInferEmbeddings

TEXTS = ["The library closes at eight.", "Dogs must be kept on a lead.", "Tea is served at four."]
QUESTION = "When does the library close?"

with HybridClient() as client:
    store = InMemoryVectorStore(HybridInferEmbeddings("small", client=client))
    store.add_texts(TEXTS)
    (found,) = store.similarity_search(QUESTION, k=1)
    print("context:", found.page_content)

    prompt = ChatPromptTemplate.from_template("Context: {context}\n\nQuestion: {question}")
    model = ChatHybridInfer(model="small", client=client, max_tokens=32)
    chain = prompt | model | StrOutputParser()
    for piece in chain.stream({"context": found.page_content, "question": QUESTION}):
        print(piece, end="", flush=True)
    print()
