"""Rotation of keys: online, resumable, and never a moment in which something cannot be read.

    keks      every wrapped key comes under the primary KEK; which KEKs are still needed
    key_file  a new KEK into the key file of the embedded default, an old one out of it
    data_keys a new data key for a tenant; its rows are sealed again, batch by batch
    old_keys  a data key that was replaced: who still needs it, and its destruction

Each step is a write that is fenced by what it replaces. So two rotations at once, and
requests, refreshes, imports and revocations in between, are harmless; whatever was cut
off goes on with the next call.
"""
