"""The rules of `harness prestage lint`: what they look for, what it does to a host, what to write instead."""

from __future__ import annotations

from harness.prestage.lint import of_configs as configs
from harness.prestage.lint import of_scripts as scripts
from harness.prestage.lint import of_units as units
from harness.prestage.lint.lint import Rule

RULES = (
    Rule("invalid", "Ignition refuses the whole config", "see harness ignition validate", configs.invalid),
    Rule(
        "mode-decimal",
        "JSON has no octal numbers, so the file gets other permissions than meant",
        "write the mode as a decimal number: 493 for 0755, 420 for 0644",
        configs.mode_in_octal_digits,
    ),
    Rule("special-bits", "Ignition leaves these bits out", "remove them", configs.special_bits),
    Rule(
        "not-executable",
        "the unit fails with status 203/EXEC",
        "write 493 (0o755)",
        units.runs_what_is_not_executable,
    ),
    Rule(
        "key-twice",
        "sshd takes the first for an option that it does not know, and refuses the key",
        "write the type once",
        configs.key_type_twice,
    ),
    Rule(
        "spec-release",
        "assisted-service refuses the override, or merges what its release cannot read",
        "write the version that the release has",
        configs.spec_of_another_release,
    ),
    Rule(
        "patch-differs",
        "assisted-service gives hosts another config than the one that is looked at",
        "encode the config again: its JSON as a string",
        configs.patch_of_another_config,
    ),
    Rule(
        "patch-not-string",
        "assisted-service wants the config as a string and refuses an object",
        "encode the config: its JSON as a string",
        configs.patch_is_no_string,
    ),
    Rule(
        "bad-list",
        "the extraction finds no such image and leaves it out",
        "see harness prestage list",
        configs.bad_list,
    ),
    Rule(
        "mount-name",
        "systemd refuses a mount unit whose name is not its path",
        "name the unit after Where=",
        units.mount_named_otherwise,
    ),
    Rule(
        "absent-unit",
        "systemd ignores an order with a unit that it does not have, so nothing waits for anything",
        "name the unit that is there, or remove it",
        units.ordered_with_nobody,
    ),
    Rule(
        "bound-cycle",
        "each of them needs the other, and the mount goes away while somebody still uses it",
        "let the service say Requires= and After=, and the mount neither BindsTo= nor StopWhenUnneeded=",
        units.stops_what_needs_it,
    ),
    Rule("not-enabled", "it is never started", 'write "enabled": true', units.never_started),
    Rule(
        "no-install",
        "enabling it does nothing, so it is never started",
        "give it an [Install] section with WantedBy=",
        units.cannot_be_enabled,
    ),
    Rule("wrong-section", "systemd ignores it with a warning", "move it where it belongs", units.in_another_section),
    Rule(
        "not-delivered",
        "the unit fails with status 203/EXEC or 127",
        "deliver it by storage.files, or run what is there",
        units.runs_what_nobody_delivers,
    ),
    Rule(
        "disables-itself",
        "ExecStopPost= runs after a failure too, so the next boot does not try again",
        "use ExecStartPost=, which runs after success alone, or a stamp file and ConditionPathExists=!",
        units.gives_up_after_a_failure,
    ),
    Rule(
        "wrong-archive",
        "archives stay where they are and fill the partition",
        "remove what was unpacked, or nothing where the partition is mounted read-only",
        scripts.wrong_archive_removed,
    ),
    Rule(
        "always-succeeds",
        "the unit succeeds though images are missing, and what waits for it pulls them from the network",
        "count what failed, and end with that",
        scripts.always_succeeds,
    ),
    Rule(
        "wrong-item",
        "one image is tried again and again, those that failed never",
        "use the loop's own variable",
        scripts.retry_of_another_item,
    ),
    Rule(
        "last-status",
        "whatever failed before is forgotten as soon as one item succeeds",
        "keep the failure: `|| rc=1`",
        scripts.status_of_the_last,
    ),
)
