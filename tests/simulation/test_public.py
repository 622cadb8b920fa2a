"""Public traces in the columns that their publishers use."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_router.simulation import public
from llm_router.simulation.files import TraceError
from llm_router.simulation.trace import Call

CODE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319600,3180,8\n"
)
CONV = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:02.9799600,374,44\n"
CODE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 00:00:01+00:00,2399,6
"""
BURST = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,GPT-4,1087,230,1317,API log
46,GPT-4,300,0,300,API log
"""
BURST_3 = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
19440110.0,1722ac82,43,GPT-4,906,446,1352,Conversation log
19440161.0,d5983bf9,2,ChatGPT,36,29,65,Conversation log
"""


def written(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.write_text(text)
    return file


def test_two_azure_files_are_two_models_on_one_clock(tmp_path: Path) -> None:
    files = [
        written(tmp_path, "AzureLLMInferenceTrace_code.csv", CODE),
        written(tmp_path, "AzureLLMInferenceTrace_conv.csv", CONV),
    ]
    trace = public.read(files)
    assert [(call.model, call.prompt_tokens, call.output_tokens) for call in trace.calls] == [
        ("conv", 374, 44),
        ("code", 4808, 10),
        ("code", 3180, 8),
    ]
    assert [call.at for call in trace.calls] == pytest.approx([0.0, 1.0, 1.052], abs=1e-5)


def test_azure_files_of_a_week_have_offsets_and_another_name(tmp_path: Path) -> None:
    trace = public.read([written(tmp_path, "AzureLLMInferenceTrace_code_1week.csv", CODE_2024)])
    assert {call.model for call in trace.calls} == {"code"}
    assert trace.calls[1].at == pytest.approx(0.99007, abs=1e-5)


def test_burstgpt_names_its_models_and_failures_are_left_out(tmp_path: Path) -> None:
    trace = public.read([written(tmp_path, "BurstGPT_1.csv", BURST)])
    assert trace.calls == [Call("ChatGPT", 472, 18, 0.0), Call("GPT-4", 1087, 230, 40.0)]


def test_burstgpt_with_sessions_has_more_columns_and_a_late_clock(tmp_path: Path) -> None:
    trace = public.read([written(tmp_path, "BurstGPT_3.csv", BURST_3)])
    assert trace.calls == [Call("GPT-4", 906, 446, 0.0), Call("ChatGPT", 36, 29, 51.0)]


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("a,b\n1,2\n", 1, "the columns are a, b; known are TIMESTAMP"),
        ("", 1, "missing"),
        (CONV + "yesterday,1,1\n", 3, "yesterday"),
        (CONV + "2023-11-16 18:17:02,1,x\n", 3, "'x'"),
        (CONV + "2023-11-16 18:17:02,-1,1\n", 3, "less than 0"),
        (CONV + "2023-11-16 18:17:02,1\n", 3, "whole numbers of tokens"),
        (BURST + "a while,GPT-4,1,1,2,API log\n", 5, "a while"),
    ],
)
def test_a_bad_row_is_named(text: str, line: int, why: str, tmp_path: Path) -> None:
    file = written(tmp_path, "trace.csv", text)
    with pytest.raises(TraceError) as told:
        public.read([file])
    assert told.value.message.startswith(f"cannot read {file}:{line}: ")
    assert why in told.value.message
