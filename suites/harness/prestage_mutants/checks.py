"""The checks of suites/prestage that need no boot, as mutants name them, and those that read the same thing."""

STAGES = "test_archives.py::test_both_stages_have_images"
ARCHIVES = "test_archives.py::test_every_archive_is_whole_and_none_is_missing_or_too_many"
STRANGERS = "test_archives.py::test_nothing_else_lies_there"
SCRIPT = "test_archives.py::test_script_for_use_by_hand_is_ours"

SOUND = "test_data_partition.py::test_partition_table_is_sound"
LAST = "test_data_partition.py::test_data_partition_is_the_last_and_ends_with_the_disk"
ALIGNED = "test_data_partition.py::test_data_partition_is_aligned_and_of_linux"
FILESYSTEM = "test_data_partition.py::test_filesystem_is_one_that_coreos_mounts"
SUPERBLOCK = "test_data_partition.py::test_superblock_is_sound_and_the_filesystem_within_its_partition"
SEED = "test_data_partition.py::test_the_seeds_disk_comes_out_to_the_sector"

FOLLOWS = "test_installation.py::test_data_partition_follows_those_of_the_image"
PLACE = "test_installation.py::test_data_partition_keeps_place_type_and_guid"
KEPT = "test_installation.py::test_data_partition_keeps_its_files"
OF_IMAGE = "test_installation.py::test_partitions_of_the_image_are_what_they_were"
BYTES_OF_IMAGE = "test_installation.py::test_partitions_of_the_image_hold_what_they_held"
BOOT_CODE = "test_installation.py::test_boot_code_is_that_of_the_image"
INSTALLED_SOUND = "test_installation.py::test_partition_table_is_sound"

DEFECTS = "test_configs.py::test_config_has_none_of_the_known_defects"
MOUNTS = "test_configs.py::test_config_mounts_the_data_partition"
OVERRIDE = "test_configs.py::test_override_for_the_assisted_service_is_the_config"

# The lists of the folder.
READERS_OF_LISTS = f"{STAGES} {ARCHIVES} {STRANGERS}"

# The files of the data partition; it is installed as it is, so the same cannot be read there.
READERS_OF_DATA = f"{READERS_OF_LISTS} {SCRIPT} {FILESYSTEM} {SUPERBLOCK} {KEPT}"
