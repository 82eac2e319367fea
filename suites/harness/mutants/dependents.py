"""Checks that read the same thing, and so fail together when it cannot be read at all."""

# What a profile says of the boot filesystem itself.
PROMISES_OF_BOOT = """
    test_filesystems.py::test_filesystem_details_are_those_of_the_profile
    test_filesystems.py::test_filesystem_features_are_those_of_the_profile
    test_filesystems.py::test_filesystems_are_those_of_the_profile
    test_filesystems.py::test_uuids_are_the_placeholders_until_the_first_boot
"""

# Files on the boot filesystem.
READERS_OF_BOOT = """
    test_boot_configuration.py::test_boot_entry_names_kernel_and_initramfs_that_exist
    test_boot_configuration.py::test_boot_files_belong_to_root
    test_boot_configuration.py::test_console_settings_are_those_of_the_platform
    test_boot_configuration.py::test_first_boot_is_left_to_grub
    test_boot_configuration.py::test_first_boot_stamp_is_there_and_empty
    test_boot_configuration.py::test_grub_configuration_reads_the_first_boot_stamp
    test_boot_configuration.py::test_grub_folder_is_closed
    test_boot_configuration.py::test_kernel_arguments_are_those_of_the_profile_in_order
    test_boot_configuration.py::test_kernel_is_a_linux_kernel
    test_boot_configuration.py::test_no_ignition_config_is_shipped
    test_boot_configuration.py::test_openstack_puts_its_serial_console_first
    test_boot_configuration.py::test_platform_id_appears_exactly_once
    test_boot_configuration.py::test_platform_table_knows_this_platform
    test_boot_configuration.py::test_there_is_exactly_one_boot_entry
    test_identity.py::test_initramfs_of_the_boot_filesystem_is_that_of_the_deployment
    test_identity.py::test_kernel_of_the_boot_filesystem_is_that_of_the_deployment
"""

# The system put together from root, boot and the ESP.
READERS_OF_SYSTEM = """
    test_container_storage.py::test_every_layer_and_blob_is_what_its_digest_says
    test_container_storage.py::test_every_promised_image_is_preloaded
    test_container_storage.py::test_nothing_is_left_over_from_filling_the_storage
    test_identity.py::test_aleph_has_the_format_of_its_era
    test_identity.py::test_aleph_tells_the_version_and_commit_that_boot
    test_identity.py::test_boot_entry_boots_the_only_deployment
    test_identity.py::test_etc_os_release_points_into_usr
    test_identity.py::test_image_carries_no_identity_of_its_own
    test_identity.py::test_older_aleph_name_leads_to_the_newer_file
    test_identity.py::test_os_release_keys_are_those_of_the_profile_in_order
    test_identity.py::test_os_release_names_the_ostree_version
    test_identity.py::test_os_release_values_are_those_of_the_profile
    test_identity.py::test_ostree_repository_is_configured_as_promised
    test_identity.py::test_stateroot_is_that_of_the_profile
"""
