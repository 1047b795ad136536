"""What pyproject.toml cannot say: the interception path may be compiled, from the same source, by mypyc, and what
evaluates small graphs and scans documents is in C.

TOCSIN_COMPILE=1 pip install .     # takes a C compiler and some minutes; without the variable nothing is compiled
"""

import os
import sys
from tempfile import NamedTemporaryFile

from setuptools import Extension, setup

# What every relayed byte and every judged response passes through. A file belongs here when a benchmark tells so.
HOT = """
    middleware/tocsin/relay/{admission,asking,connection,connection_streams,context,downstream,endpoint,frame_rate,goaway}.py
    middleware/tocsin/relay/{fair_share,gated_stream,holding,local_reply,managed,scorer_queue}.py
    middleware/tocsin/relay/{method_paths,request_block,response_block,stream,stream_host,stream_messages}.py
    middleware/tocsin/relay/{transparent,upstream,verdict_fields,windows}.py
    middleware/tocsin/http_relay/{bodies,caller_reader,caller_socket,connection,context,first_bytes,heads,hosts,incoming}.py
    middleware/tocsin/http_relay/{passing,request,response,sides,upstream,writing}.py
    middleware/tocsin/exchange/{exchange,gated,opening,replies,segments,sending,treatment}.py
    middleware/tocsin/ext_proc/{connection,connection_streams,context,exchange,frame_reader,grpc_head,held_body,holding,hosts}.py
    middleware/tocsin/ext_proc/{http_replies,http_response,misfits,replies,request_bodies,request_head,requests,response,server,stream,watching}.py
    middleware/tocsin/grpc_wire/{content_types,deframer}.py
    middleware/tocsin/http2/{frames,header_literals,headers,receive_window,send_window,splitter,unfinished_block}.py
    middleware/tocsin/judgement/{actions,batch_scorer,batch_verdicts,batching,call,call_plan,call_reader,call_size,gate,guard,held_items}.py
    middleware/tocsin/judgement/{judge,key_finder,lottery,message_groups,message_run,model,outgoing,reporting,run_reading,scoring,signal_readers,signal_shapes}.py
    middleware/tocsin/protocols/{field_edit,field_method,field_reader,field_signals,field_values,layouts,oip,oip_contents,oip_layouts,oip_method,rows}.py
    middleware/tocsin/protocols/http/{call_name,document,following,framing,method,parallel,place,reader,routes,tensors,unread_parts,values}.py
    middleware/tocsin/sinks/{histogram,series,tally}.py
    middleware/tocsin/state/memory.py
    middleware/tocsin/{memory,unscored,verdict,verdict_format}.py
    calibration/tocsin_calibration/promise.py
    calibration/tocsin_calibration/sessions/{rule,windows}.py
    calibration/tocsin_calibration/thresholds/{joint,limits,lookup}.py
"""
# In C, by module: the file, its headers and options. Steps evaluate small graphs, where without them ONNX Runtime does;
# products must round as they do there, with no other contraction. The scanner reads documents, where without it msgspec
# does. Scales are looked up for few rows, where without them Python and numpy do, and
# fields of small messages are found, where without it protobuf does.
IN_C = {
    "tocsin_detectors.small_graphs._steps": (
        "detectors/tocsin_detectors/small_graphs/_steps.c",
        [
            f"detectors/tocsin_detectors/small_graphs/{name}.h"
            for name in ("evaluation", "kernels", "products", "steps")
        ],
        ["-O3", "-fno-math-errno", "-ffp-contract=off"],
    ),
    "tocsin_calibration.thresholds._scales": (
        "calibration/tocsin_calibration/thresholds/_scales.c",
        [],
        ["-O3", "-ffp-contract=off"],
    ),
    "tocsin.protocols._envelope": ("middleware/tocsin/protocols/_envelope.c", [], ["-O3"]),
    "tocsin.protocols.http._scanner": (
        "middleware/tocsin/protocols/http/_scanner.c",
        ["middleware/tocsin/protocols/http/json_scan.h", "middleware/tocsin/protocols/http/json_tokens.h"],
        ["-O3"],
    ),
}
# The modules are one library and, by each one's name, a few lines that find it there through Python: no function needs
# to be found by others, nothing but a debugger unwinds them, and in pages of their own those lines would take three
# times the space. What the compiler would warn of in C that nobody wrote takes it twice as long as all the rest.
GENERATED_FLAGS = ["-fvisibility=hidden", "-fno-asynchronous-unwind-tables", "-Wno-all"]
TOGETHER = ["-Wl,-z,noseparate-code,--strip-all"] if sys.platform == "linux" else []
COMPILES = os.environ.get("TOCSIN_COMPILE", "") not in ("", "0")
COMPILER = ["mypy[mypyc]>=1.11", "numpy>=1.26"]  # numpy for its types alone
# Of other packages only stubs are looked into: all that is installed would take minutes and gigabytes.
TYPES = """
[mypy]
python_version = 3.11
mypy_path = middleware:calibration:detectors
ignore_missing_imports = true
follow_imports = skip
[mypy-tocsin.*,tocsin_calibration.*,tocsin_detectors.*,numpy.*]
follow_imports = silent
"""


def files() -> list[str]:
    """The paths that HOT stands for."""
    found = []
    for line in HOT.split():
        before, _, rest = line.partition("{")
        names, _, after = rest.partition("}")
        found += [before + name + after for name in names.split(",")]
    return found


def compiled() -> list[object]:
    """The modules to compile. None while pip only asks what the package is, and what building it takes."""
    if not COMPILES or not {"bdist_wheel", "build_ext", "editable_wheel"}.intersection(sys.argv):
        return []
    from mypyc.build import mypycify

    with NamedTemporaryFile("w", suffix=".ini") as config:
        config.write(TYPES)
        config.flush()
        options = [f"--config-file={config.name}", *files()]
        modules = list(mypycify(options, group_name="tocsin", debug_level="0"))  # what debuggers want is half of all
    for module in modules:
        module.extra_compile_args = [*module.extra_compile_args, *GENERATED_FLAGS]
        module.extra_link_args = [*module.extra_link_args, *TOGETHER]
    return [
        *modules,
        *[
            Extension(name, [source], depends=headers, extra_compile_args=options, py_limited_api=True)
            for name, (source, headers, options) in IN_C.items()
        ],
    ]


if __name__ == "__main__":
    setup(ext_modules=compiled(), setup_requires=COMPILER if COMPILES else [])
