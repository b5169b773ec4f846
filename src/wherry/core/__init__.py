"""containerd's place, in wherryd: content, images, snapshots, tasks, the database. Docker's semantics are the engine's."""
