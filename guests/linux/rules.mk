# The small Linux: `make linux-guest` builds a kernel and a root file system for VMs, `make box-kernel` the kernel of the
# emulated PCs. Both take minutes the first time, and a second when nothing changed: guests/linux/build keeps what it made.
# Nothing else here depends on them; tests and the demo use them when they are there.
LINUX_OUT := build-linux

.PHONY: linux-guest box-kernel
linux-guest: ## Build a small Linux guest from the distribution's kernel source (build-linux/guest; minutes, once)
	@tests/deps linux
	@guests/linux/build guest $(LINUX_OUT)/guest
	@guests/linux/rootfs $(LINUX_OUT)/guest
	@guests/linux/hints $(LINUX_OUT)/guest

box-kernel: ## Build a small kernel with KVM in it, for emulated PCs (build-linux/box; minutes, once)
	@tests/deps linux
	@guests/linux/build box $(LINUX_OUT)/box
