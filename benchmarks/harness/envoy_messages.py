"""Envoy's messages as protobuf's own implementation (upb) reads and writes them, in a pool of their own."""

from __future__ import annotations

from google.protobuf import descriptor_pb2, struct_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

BOOL, BYTES, ENUM, MESSAGE, STRING, UINT32 = 8, 12, 14, 11, 9, 13
PACKAGE = "envoy.service.ext_proc.v3"
_BODIES = ["NONE", "STREAMED", "BUFFERED", "BUFFERED_PARTIAL", "FULL_DUPLEX_STREAMED", "GRPC"]

# message -> (field, number, type, type's name, repeated, oneof)
_MESSAGES: dict[str, list[tuple[str, int, int, str, bool, str]]] = {
    "HeaderValue": [("key", 1, STRING, "", False, ""), ("value", 2, STRING, "", False, ""),
                    ("raw_value", 3, BYTES, "", False, "")],
    "HeaderMap": [("headers", 1, MESSAGE, "HeaderValue", True, "")],
    "HeaderValueOption": [("header", 1, MESSAGE, "HeaderValue", False, ""),
                          ("append_action", 3, ENUM, "Append", False, "")],
    "HttpHeaders": [("headers", 1, MESSAGE, "HeaderMap", False, ""), ("end_of_stream", 3, BOOL, "", False, "")],
    "HttpBody": [("body", 1, BYTES, "", False, ""), ("end_of_stream", 2, BOOL, "", False, "")],
    "HttpTrailers": [("trailers", 1, MESSAGE, "HeaderMap", False, "")],
    "ProtocolConfiguration": [("request_body_mode", 1, ENUM, "Body", False, ""),
                              ("response_body_mode", 2, ENUM, "Body", False, ""),
                              ("send_body_without_waiting_for_header_response", 3, BOOL, "", False, "")],
    "AttributesEntry": [("key", 1, STRING, "", False, ""), ("value", 2, MESSAGE, ".google.protobuf.Struct", False, "")],
    "ProcessingRequest": [
        ("request_headers", 2, MESSAGE, "HttpHeaders", False, "request"),
        ("response_headers", 3, MESSAGE, "HttpHeaders", False, "request"),
        ("request_body", 4, MESSAGE, "HttpBody", False, "request"),
        ("response_body", 5, MESSAGE, "HttpBody", False, "request"),
        ("request_trailers", 6, MESSAGE, "HttpTrailers", False, "request"),
        ("response_trailers", 7, MESSAGE, "HttpTrailers", False, "request"),
        ("attributes", 9, MESSAGE, "AttributesEntry", True, ""),
        ("observability_mode", 10, BOOL, "", False, ""),
        ("protocol_config", 11, MESSAGE, "ProtocolConfiguration", False, ""),
    ],
    "HeaderMutation": [("set_headers", 1, MESSAGE, "HeaderValueOption", True, ""),
                       ("remove_headers", 2, STRING, "", True, "")],
    "StreamedBodyResponse": [("body", 1, BYTES, "", False, ""), ("end_of_stream", 2, BOOL, "", False, "")],
    "BodyMutation": [("body", 1, BYTES, "", False, "mutation"), ("clear_body", 2, BOOL, "", False, "mutation"),
                     ("streamed_response", 3, MESSAGE, "StreamedBodyResponse", False, "mutation")],
    "CommonResponse": [("status", 1, ENUM, "Continue", False, ""),
                       ("header_mutation", 2, MESSAGE, "HeaderMutation", False, ""),
                       ("body_mutation", 3, MESSAGE, "BodyMutation", False, "")],
    "HeadersResponse": [("response", 1, MESSAGE, "CommonResponse", False, "")],
    "BodyResponse": [("response", 1, MESSAGE, "CommonResponse", False, "")],
    "TrailersResponse": [("header_mutation", 1, MESSAGE, "HeaderMutation", False, "")],
    "HttpStatus": [("code", 1, ENUM, "Code", False, "")],
    "GrpcStatus": [("status", 1, UINT32, "", False, "")],
    "ImmediateResponse": [("status", 1, MESSAGE, "HttpStatus", False, ""),
                          ("headers", 2, MESSAGE, "HeaderMutation", False, ""),
                          ("body", 3, BYTES, "", False, ""), ("grpc_status", 4, MESSAGE, "GrpcStatus", False, ""),
                          ("details", 5, STRING, "", False, "")],
    "ProcessingResponse": [
        ("request_headers", 1, MESSAGE, "HeadersResponse", False, "response"),
        ("response_headers", 2, MESSAGE, "HeadersResponse", False, "response"),
        ("request_body", 3, MESSAGE, "BodyResponse", False, "response"),
        ("response_body", 4, MESSAGE, "BodyResponse", False, "response"),
        ("request_trailers", 5, MESSAGE, "TrailersResponse", False, "response"),
        ("response_trailers", 6, MESSAGE, "TrailersResponse", False, "response"),
        ("immediate_response", 7, MESSAGE, "ImmediateResponse", False, "response"),
        ("dynamic_metadata", 8, MESSAGE, ".google.protobuf.Struct", False, ""),
    ],
}  # fmt: skip
_ENUMS = {"Body": _BODIES, "Append": ["APPEND", "ADD_IF_ABSENT", "OVERWRITE_OR_ADD", "OVERWRITE"],
          "Continue": ["CONTINUE", "REPLACE"], "Code": ["Empty"]}  # fmt: skip


def _pool() -> DescriptorPool:
    pool = DescriptorPool()
    struct = descriptor_pb2.FileDescriptorProto()
    struct_pb2.DESCRIPTOR.CopyToProto(struct)
    pool.Add(struct)
    file = descriptor_pb2.FileDescriptorProto(name="processor.proto", package=PACKAGE, syntax="proto3")
    file.dependency.append(struct.name)
    for name, values in _ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=f"{name}_{value}", number=number)
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        oneofs: list[str] = []
        for field, number, kind, of, repeated, oneof in fields:
            of = of if of.startswith(".") or not of else f".{PACKAGE}.{of}"
            described = message.field.add(
                name=field, number=number, type=kind, label=3 if repeated else 1, type_name=of or None
            )
            if oneof:
                if oneof not in oneofs:
                    message.oneof_decl.add(name=oneof)
                    oneofs.append(oneof)
                described.oneof_index = oneofs.index(oneof)
    pool.Add(file)
    return pool


_POOL = _pool()
ProcessingRequest = GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.ProcessingRequest"))
ProcessingResponse = GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.ProcessingResponse"))
