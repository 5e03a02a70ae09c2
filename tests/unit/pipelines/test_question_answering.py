"""question-answering against a slow reference written from the definition, and its forms of input."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

import numpy as np
import pytest

from gpt2kit.engine import load_engine
from gpt2kit.engine.heads import EngineWithHead, load_head
from gpt2kit.errors import PipelineError
from gpt2kit.pipelines import QuestionAnsweringPipeline, pipeline

TEXT = "hello world she was not a woman of many words and he had none. It rained, alas! h\u00e9 well"
WORDS = TEXT.split()
QUESTION, CONTEXT = "who was she?", "she was not a woman, of many words"


@pytest.fixture(scope="module")
def pipe(folders) -> QuestionAnsweringPipeline:
    return pipeline("question-answering", model=folders["question-answering"])


def reference(pipe, question, context, *, max_seq_len, doc_stride, max_answer_len, aligned):
    """Every span of every window by its score, merged by its text: slow, and without any of the pipeline's code.

    A window is the question and a run of context tokens that begins `room - doc_stride` after the one before.
    """
    tokenizer = pipe.tokenizer
    question_ids = tokenizer(question)["input_ids"]
    encoded = tokenizer([context], return_offsets_mapping=True)
    ids, offsets, words = encoded["input_ids"][0], encoded["offset_mapping"][0], encoded.word_ids(0)
    room = max_seq_len - len(question_ids)
    answers = {}
    begin = 0
    while True:
        window = range(begin, min(begin + room, len(ids)))
        engine = pipe.network.engine
        row = question_ids + [ids[i] for i in window]
        (output,) = engine.forward([(engine.new_sequence(), row)], logits=None, hidden=True)
        logits = output.hidden @ pipe.network.head.weight.T + pipe.network.head.bias
        logits = logits[len(question_ids) :].astype(float)
        starts, ends = [
            [math.exp(x) / sum(math.exp(y) for y in logits[:, side]) for x in logits[:, side]]
            for side in (0, 1)
        ]
        spans = [
            (starts[i] * ends[j], window[i], window[j])
            for i in range(len(window))
            for j in range(i, min(i + max_answer_len, len(window)))
        ]
        spans.sort(key=lambda span: -span[0])
        for score, first, last in spans[: 12 if aligned else 1]:
            if aligned:
                first = min(i for i in window if words[i] == words[first])
                last = max(i for i in window if words[i] == words[last])
            start, end = offsets[first][0], offsets[last][1]
            text = context[start:end]
            known = answers.setdefault(text.lower(), [0.0, start, end, text])
            known[0] += score
        if window.stop == len(ids):
            break
        begin += room - doc_stride
    score, start, end, text = max(answers.values(), key=lambda answer: answer[0])
    return {"score": score, "start": start, "end": end, "answer": text}


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("seed", range(12))
def test_the_best_answer_is_the_slow_reference_s(pipe, seed, aligned):
    rng = random.Random(seed)
    question = " ".join(rng.choices(WORDS, k=rng.randint(1, 4)))
    context = " ".join(rng.choices(WORDS, k=rng.randint(1, 40)))
    num_question = len(pipe.tokenizer(question)["input_ids"])
    options = {
        "max_seq_len": rng.randint(num_question + 2, 100),
        "max_answer_len": rng.randint(1, 20),
    }
    options["doc_stride"] = rng.randint(0, options["max_seq_len"] - num_question - 1)
    expected = reference(pipe, question, context, aligned=aligned, **options)
    given = pipe(question=question, context=context, align_to_words=aligned, **options)
    assert given["score"] == pytest.approx(expected["score"], rel=1e-5)
    assert given == expected | {"score": given["score"]}
    assert given["answer"] == context[given["start"] : given["end"]]


def test_answers_are_whole_words_unless_asked_otherwise(pipe):
    for answer in pipe(QUESTION, CONTEXT, top_k=5):
        assert answer["start"] == 0 or CONTEXT[answer["start"]] in " ,"
        assert answer["end"] == len(CONTEXT) or CONTEXT[answer["end"]] in " ,"
    spans = pipe(QUESTION, CONTEXT, top_k=8, align_to_words=False, max_answer_len=2)
    assert any(span["end"] - span["start"] <= 2 for span in spans)


def test_top_k_answers_come_best_first_and_begin_with_the_best(pipe):
    answers = pipe(QUESTION, CONTEXT, top_k=4)
    assert len(answers) == 4
    assert [a["score"] for a in answers] == sorted((a["score"] for a in answers), reverse=True)
    assert pipe(QUESTION, CONTEXT, topk=4) == answers
    assert len({a["answer"].lower() for a in answers}) == 4


def test_a_context_of_one_token_has_one_answer(pipe):
    answer = pipe(QUESTION, "x", top_k=3)
    assert (answer["answer"], answer["start"], answer["end"]) == ("x", 0, 1)
    assert answer["score"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "form",
    [
        lambda pipe, q, c: pipe(question=q, context=c),
        lambda pipe, q, c: pipe(q, c),
        lambda pipe, q, c: pipe({"question": q, "context": c}),
        lambda pipe, q, c: pipe([{"question": q, "context": c}]),
        lambda pipe, q, c: pipe(X={"question": q, "context": c}),
        lambda pipe, q, c: pipe(data=[{"question": q, "context": c}]),
        lambda pipe, q, c: pipe(SimpleNamespace(question_text=q, context_text=c)),
        lambda pipe, q, c: pipe(question=[q], context=[c]),
        lambda pipe, q, c: next(pipe(item for item in [{"question": q, "context": c}])),
    ],
)
def test_forms_of_one_example(pipe, form):
    assert form(pipe, QUESTION, CONTEXT) == pipe(QUESTION, CONTEXT)
    assert set(pipe(QUESTION, CONTEXT)) == {"score", "start", "end", "answer"}


def test_forms_of_many_examples(pipe):
    questions, contexts = [QUESTION, "he?"], [CONTEXT, "none."]
    expected = [pipe(q, c) for q, c in zip(questions, contexts, strict=True)]
    examples = [{"question": q, "context": c} for q, c in zip(questions, contexts, strict=True)]
    assert pipe(question=questions, context=contexts) == expected
    assert pipe(examples) == pipe(*examples) == list(pipe(iter(examples))) == expected
    assert pipe(question=questions, context=CONTEXT) == [pipe(q, CONTEXT) for q in questions]


def test_windows_and_single_texts_agree_when_the_context_fits(pipe):
    assert pipe(QUESTION, CONTEXT, max_seq_len=60, doc_stride=5) == pipe(QUESTION, CONTEXT)


def test_a_long_question_is_cut(pipe):
    long = "who " * 20
    short = pipe.tokenizer.decode(pipe.tokenizer(long)["input_ids"][:9])
    assert pipe(long, CONTEXT, max_question_len=9) == pipe(short, CONTEXT)


def test_an_impossible_answer_is_that_of_the_first_token(folders):
    class Network:
        """Says where it is told to, whatever the row."""

        def __init__(self, config, peak):
            self.config, self.peak = config, peak

        def run(self, rows, *, last=False):
            outputs = [np.zeros((len(row), 2), dtype=np.float32) for row in rows]
            for output in outputs:
                output[self.peak] = 9.0
            return outputs

    real = pipeline("question-answering", model=folders["question-answering"])
    null = QuestionAnsweringPipeline(Network(real.config, 0), real.tokenizer)
    answer = null(QUESTION, CONTEXT, handle_impossible_answer=True)
    assert (answer["answer"], answer["start"], answer["end"]) == ("", 0, 0)
    assert answer["score"] > 0.9
    assert null(QUESTION, CONTEXT)["answer"] != ""
    there = QuestionAnsweringPipeline(Network(real.config, -1), real.tokenizer)
    assert there(QUESTION, CONTEXT, handle_impossible_answer=True)["answer"] == " words"
    answers = there(QUESTION, CONTEXT, handle_impossible_answer=True, top_k=100)
    (impossible,) = [answer for answer in answers if answer["answer"] == ""]
    assert impossible["score"] < 1e-6


def test_a_context_on_the_left_is_read_with_padding_side_left(folders):
    pipe = pipeline("question-answering", model=folders["question-answering"])
    pipe.tokenizer.padding_side = "left"
    answer = pipe(QUESTION, CONTEXT)
    assert answer["answer"] == CONTEXT[answer["start"] : answer["end"]]
    ids = pipe.tokenizer(CONTEXT)["input_ids"] + pipe.tokenizer(QUESTION)["input_ids"]
    logits = pipe.network.run([ids])[0][: len(pipe.tokenizer(CONTEXT)["input_ids"])].astype(float)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=0)
    best = np.triu(np.outer(probabilities[:, 0], probabilities[:, 1])).max()
    (raw,) = [pipe(QUESTION, CONTEXT, align_to_words=False, max_answer_len=100)]
    assert raw["score"] == pytest.approx(best, rel=1e-5)


def test_batches_do_not_change_an_answer(pipe, folders):
    rng = random.Random(3)
    examples = [
        {"question": "who?", "context": " ".join(rng.choices(WORDS, k=rng.randint(1, 30)))} for _ in range(9)
    ]
    from gpt2kit.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(folders["question-answering"])
    network = EngineWithHead(
        load_engine(checkpoint), load_head(checkpoint, "qa_outputs", "x"), batch_tokens=1
    )
    one_by_one = QuestionAnsweringPipeline(network, pipe.tokenizer)
    assert pipe(examples) == one_by_one(examples)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, r"top_k parameter should be >= 1 \(got 0\)"),
        ({"top_k": 1.5}, "top_k must be an int"),
        ({"max_answer_len": 0}, r"max_answer_len parameter should be >= 1 \(got 0\)"),
        ({"max_seq_len": 0}, "max_seq_len must be an int of at least 1"),
        ({"max_seq_len": 129}, "max_seq_len is 129; n_positions is 128"),
        ({"max_seq_len": 20, "doc_stride": 19}, r"`doc_stride` \(19\) is larger than `max_seq_len` \(20\)"),
        ({"max_seq_len": 5}, "leaves no room for the context; max_seq_len is 5"),
        ({"doc_stride": -1}, "doc_stride must be an int of at least 0"),
        ({"handle_impossible_answer": 1}, "handle_impossible_answer must be True or False"),
        ({"align_to_words": "yes"}, "align_to_words must be True or False"),
        ({"max_question_length": 3}, "did you mean max_question_len"),
    ],
)
def test_wrong_options_are_refused(pipe, options, message):
    with pytest.raises(PipelineError, match=message):
        pipe(QUESTION, CONTEXT, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (((), {}), "needs question= and context="),
        (((), {"question": "a"}), "needs question= and context="),
        (((), {"question": ["a", "b"], "context": ["c"]}), "don't have the same lengths: 2 and 1"),
        (((), {"question": "a", "context": ["c"]}), "Arguments can't be understood"),
        ((({"question": "a"},), {}), "You need to provide a dictionary with keys"),
        ((({"question": "a", "context": None},), {}), "`context` of input 0 must be a string, got None"),
        ((({"question": "", "context": "b"},), {}), "`question` cannot be empty"),
        ((("only a question",), {}), "the input must be"),
    ],
)
def test_what_is_no_example_is_refused(pipe, call, message):
    args, options = call
    with pytest.raises(PipelineError, match=message):
        pipe(*args, **options)
