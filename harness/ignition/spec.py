"""The keys of the Ignition specifications 2.2.0 and 3.0.0 to 3.5.0, as two compact tables.

A line is one object; a field is `name:type`, with `!` after the name where the published schema requires it, `?`
after the type where it may be null, `[]` for a list, and `@first` or `@first-last` for the minor versions of spec 3
that have it. Facts: Ignition's documentation of its configuration specifications and migrations, and its published
schemas, against which the tests compare these tables by mutation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

Version = tuple[int, int]  # major and minor, as in (3, 2); the patch number is always 0
KNOWN: tuple[Version, ...] = ((2, 2), (3, 0), (3, 1), (3, 2), (3, 3), (3, 4), (3, 5))
ROOT = "config"
LAST = 99

SPEC_3 = """
config            ignition!:ignition storage:storage systemd:systemd passwd:passwd kernelArguments:kernelArguments@3
ignition          version:str@0-3 version!:str@4 config:replacement timeouts:timeouts security:security proxy:proxy@1
replacement       merge:reference[]@0-0 replace:reference@0-0 merge:resource[]@1 replace:resource@1
reference         source!:str? verification:verification
resource          source:str? compression:str? verification:verification httpHeaders:header[]@1
header            name!:str value:str?
verification      hash:str?
timeouts          httpResponseHeaders:int? httpTotal:int?
security          tls:tls
tls               certificateAuthorities:authority?[]@0-0 certificateAuthorities:resource[]@1
authority         source!:str verification:verification
proxy             httpProxy:str? httpsProxy:str? noProxy:str?[]@1-3 noProxy:str[]@4
kernelArguments   shouldExist:str[] shouldNotExist:str[]
storage           disks:disk[] raid:raid[] luks:luks[]@2 filesystems:filesystem[] files:file[] \
                  directories:directory[] links:link[]
disk              device!:str wipeTable:bool? partitions:partition[]
partition         label:str? number:int sizeMiB:int? startMiB:int? typeGuid:str? guid:str? wipePartitionEntry:bool? \
                  shouldExist:bool? resize:bool?@2
raid              name!:str level!:str@0-2 level:str?@3 spares:int? devices!:str[]@0-2 devices:str[]@3 options:str[]
luks              name!:str label:str? uuid:str? device:str? keyFile:resource wipeVolume:bool? clevis:clevis?@2-2 \
                  clevis:clevis@3 options:str[] discard:bool?@4 openOptions:str[]@4 cex:cex@5
clevis            custom:custom?@2-2 custom:custom@3 tpm2:bool? tang:tang[] threshold:int?
custom            pin!:str@2-2 config!:str@2-2 pin:str?@3 config:str?@3 needsNetwork:bool?
tang              url:str thumbprint:str? advertisement:str?@4
cex               enabled:bool?
filesystem        device!:str path:str? format:str? options:str[] mountOptions:str[]@1 wipeFilesystem:bool? \
                  label:str? uuid:str?
file              path!:str overwrite:bool? user:owner group:owner mode:int? contents:resource append:resource[]
directory         path!:str overwrite:bool? user:owner group:owner mode:int?
link              path!:str overwrite:bool? user:owner group:owner target!:str@0-2 target:str?@3 hard:bool?
owner             id:int? name:str?
systemd           units:unit[]
unit              name!:str enabled:bool? mask:bool? contents:str? dropins:dropin[]
dropin            name!:str contents:str?
passwd            users:user[] groups:group[]
user              name!:str passwordHash:str? sshAuthorizedKeys:str[] uid:int? gecos:str? homeDir:str? \
                  noCreateHome:bool? primaryGroup:str? groups:str[] noUserGroup:bool? system:bool? noLogInit:bool? \
                  shell:str? shouldExist:bool?@2
group             name!:str gid:int? passwordHash:str? system:bool? shouldExist:bool?@2
"""

SPEC_2 = """
config            ignition!:ignition storage:storage systemd:systemd networkd:networkd passwd:passwd
ignition          version:str config:replacement timeouts:timeouts security:security
replacement       append:reference[] replace:reference?
reference         source!:str verification:verification
verification      hash:str?
timeouts          httpResponseHeaders:int? httpTotal:int?
security          tls:tls
tls               certificateAuthorities:reference[]
storage           disks:disk[] raid:raid[] filesystems:filesystem[] files:file[] directories:directory[] links:link[]
disk              device!:str wipeTable:bool partitions:partition[]
partition         label:str number:int size:int start:int typeGuid:str guid:str
raid              name!:str level!:str devices!:str[] spares:int options:str[]
filesystem        name:str mount:mount? path:str?
mount             device!:str format!:str wipeFilesystem:bool label:str? uuid:str? options:str[] create:create?
create            force:bool options:str[]
file              filesystem!:str path!:str overwrite:bool? append:bool contents:contents mode:int? user:owner? \
                  group:owner?
contents          compression:str source:str verification:verification
directory         filesystem!:str path!:str overwrite:bool? mode:int? user:owner? group:owner?
link              filesystem!:str path!:str overwrite:bool? target!:str hard:bool user:owner? group:owner?
owner             id:int? name:str
systemd           units:unit[]
networkd          units:networkdUnit[]
unit              name!:str enable:bool enabled:bool? mask:bool contents:str dropins:dropin[]
networkdUnit      name!:str contents:str dropins:dropin[]
dropin            name!:str contents:str
passwd            users:user[] groups:group[]
user              name!:str passwordHash:str? sshAuthorizedKeys:str[] uid:int? gecos:str homeDir:str \
                  noCreateHome:bool primaryGroup:str groups:str[] noUserGroup:bool system:bool noLogInit:bool \
                  shell:str create:account?
account           uid:int? gecos:str homeDir:str noCreateHome:bool primaryGroup:str groups:str[] noUserGroup:bool \
                  system:bool noLogInit:bool shell:str
group             name!:str gid:int? passwordHash:str system:bool
"""

FIELD = re.compile(
    r"(?P<name>\w+)(?P<required>!?):(?P<kind>\w+)(?P<null>\??)(?P<many>(?:\[\])?)"
    r"(?:@(?P<since>\d+)(?P<until>-\d+)?)?"
)


@dataclass(frozen=True, slots=True)
class Field:
    """One key of one object; `kind` is str, int, bool or the name of another object."""

    name: str
    kind: str
    is_required: bool
    is_nullable: bool  # the value, or each element of a list
    is_list: bool
    since: int  # first minor version
    until: int  # last minor version


Grammar = Mapping[str, Mapping[str, Field]]


def text_of(version: Version) -> str:
    """`(3, 2)` as Ignition writes it: 3.2.0."""
    return f"{version[0]}.{version[1]}.0"


@cache
def grammar(version: Version) -> Grammar:
    """The objects of a specification and their fields, by name; objects that it cannot reach are left out."""
    major, minor = version
    table = _table(major)
    reached: dict[str, dict[str, Field]] = {}
    waiting = [ROOT]
    while waiting:
        name = waiting.pop()
        if name in table and name not in reached:
            reached[name] = {field.name: field for field in table[name] if field.since <= minor <= field.until}
            waiting += [field.kind for field in reached[name].values()]
    return reached


@cache
def introduced(kind: str, key: str, major: int) -> Version | None:
    """The specification that brought a key to an object, or None where no known one has it."""
    found = [field.since for field in _table(major).get(kind, ()) if field.name == key]
    return (major, min(found)) if found else None


@cache
def _table(major: int) -> Mapping[str, tuple[Field, ...]]:
    text = SPEC_3 if major == 3 else SPEC_2
    lines = text.replace("\\\n", " ").split("\n")
    return {words[0]: tuple(map(_field, words[1:])) for words in map(str.split, lines) if words}


def _field(word: str) -> Field:
    match = FIELD.fullmatch(word)
    if match is None:
        raise ValueError(word)
    return Field(
        name=match["name"],
        kind=match["kind"],
        is_required=bool(match["required"]),
        is_nullable=bool(match["null"]),
        is_list=bool(match["many"]),
        since=int(match["since"] or 0),
        until=int((match["until"] or f"-{LAST}")[1:]),
    )
