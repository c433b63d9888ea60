from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Frame(_message.Message):
    __slots__ = ("step", "kind", "tensors", "order", "checksum")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[Frame.Kind]
        SMASHED_DATA: _ClassVar[Frame.Kind]
        CUT_GRADIENT: _ClassVar[Frame.Kind]
        EVALUATION: _ClassVar[Frame.Kind]
        FINISH: _ClassVar[Frame.Kind]
        FINISHED: _ClassVar[Frame.Kind]
        TRUNK_OUTPUT: _ClassVar[Frame.Kind]
        OUTPUT_GRADIENT: _ClassVar[Frame.Kind]
        ABANDON: _ClassVar[Frame.Kind]
    KIND_UNSPECIFIED: Frame.Kind
    SMASHED_DATA: Frame.Kind
    CUT_GRADIENT: Frame.Kind
    EVALUATION: Frame.Kind
    FINISH: Frame.Kind
    FINISHED: Frame.Kind
    TRUNK_OUTPUT: Frame.Kind
    OUTPUT_GRADIENT: Frame.Kind
    ABANDON: Frame.Kind
    STEP_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    step: int
    kind: Frame.Kind
    tensors: bytes
    order: _containers.RepeatedScalarFieldContainer[str]
    checksum: int
    def __init__(self, step: _Optional[int] = ..., kind: _Optional[_Union[Frame.Kind, str]] = ..., tensors: _Optional[bytes] = ..., order: _Optional[_Iterable[str]] = ..., checksum: _Optional[int] = ...) -> None: ...
