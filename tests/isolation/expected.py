"""What each probe must say: the verdict, and the reason that shows that it was really tried.

A reason is one of those given, separated by `|`. `ENOENT` alone is believed only of names that a test proves to be
there outside, or that no sandbox may have whatever machine it runs on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Expected:
    """What a probe must say, on which root file systems."""

    verdict: str
    reasons: str

    def fits(self, verdict: str, detail: str) -> bool:
        """Tell whether an answer is the expected one; empty reasons take every detail."""
        return verdict in self.verdict.split("|") and (not self.reasons or detail in self.reasons.split("|"))


def _all(verdict: str, reasons: str, names: str) -> dict[str, Expected]:
    return dict.fromkeys(names.split(), Expected(verdict, reasons))


def expected(root: str, *, as_root: bool) -> dict[str, Expected]:
    """Return the whole table for a root file system and a kind of caller."""
    table = dict(_TABLE)
    if root == "image":
        # Nothing of this machine's Python is there but what the agent was started with, which is closed.
        table["change-the-lent-python"] = Expected("stopped", "ENOENT")
    elif not as_root:
        # /usr belongs to nobody inside, where no id-mapped mount can be made of it.
        table["change-a-program-of-the-machine"] = Expected("stopped", "EACCES")
        table["change-the-lent-python"] = replace(table["change-the-lent-python"], verdict="stopped")
    return table


_TABLE = {
    # calls.py: the filter answers EPERM for what it forbids, ENOSYS for what programs can do without.
    **_all("stopped", "EPERM", """
        turn-on-process-accounting add-a-key request-a-key ask-for-a-keyring search-the-session-keyring
        join-a-named-keyring create-a-bpf-map load-a-bpf-program change-the-root adjust-the-clock set-the-clock
        set-the-time-of-day unload-a-kernel-module load-a-kernel-module load-a-kernel-module-from-a-file
        watch-all-files-with-fanotify compare-kernel-objects load-another-kernel load-another-kernel-from-a-file
        move-pages-between-nodes move-single-pages mount-a-tmpfs mount-a-proc mount-a-sysfs mount-the-first-cgroups
        mount-the-second-cgroups remount-the-root-writable remount-usr-writable remount-the-kernels-settings-writable
        remount-dev-writable bind-a-directory share-mounts-with-others unmount-the-mask-of-kcore
        unmount-the-mask-of-the-settings unmount-the-mask-of-a-directory unmount-sys get-a-handle-of-a-file
        open-a-file-by-its-handle measure-with-perf-events take-a-descriptor-from-another-process
        exchange-the-root-mount write-into-another-process set-disk-quotas set-disk-quotas-of-a-descriptor
        restart-the-machine enter-a-namespace switch-swap-off switch-swap-on read-the-kernels-log
        clear-the-kernels-log handle-page-faults-of-the-kernel hang-up-the-terminal make-a-user-namespace
        make-a-mount-namespace make-a-network-namespace make-a-process-namespace make-an-ipc-namespace
        make-a-host-name-namespace make-a-cgroup-namespace make-a-clock-namespace clone-into-a-user-namespace
        clone-into-a-user-namespace-with-high-bits-set open-a-raw-socket open-a-raw-socket-of-version-6
        add-a-network-interface add-a-firewall-table
        """),
    **_all("stopped", "EPERM|absent", """
        get-at-io-ports get-at-one-io-port change-the-local-descriptor-table list-file-system-types
        ask-for-a-devices-statistics
        """),
    **_all("stopped", "ENOSYS", """
        clone-into-namespaces-the-new-way set-up-an-io-ring enter-an-io-ring register-with-an-io-ring
        open-a-file-system-the-new-way configure-a-file-system-the-new-way mount-the-new-way
        pick-a-mounted-file-system clone-a-mount move-a-mount change-a-mounts-properties
        take-memory-that-even-the-kernel-cannot-see call-a-number-beyond-the-known
        """),
    **_all("stopped", "ENOSYS|absent", "call-by-the-numbers-of-x32 call-by-the-numbers-of-i386"),
    **_all("stopped", "EAFNOSUPPORT", """
        open-a-socket-to-the-hypervisor open-a-socket-to-the-kernels-crypto open-a-packet-socket
        open-a-can-bus-socket open-a-bluetooth-socket open-a-tipc-socket open-an-express-data-path-socket
        open-an-nfc-socket open-a-key-management-socket open-a-socket-to-the-hypervisor-with-high-bits-set
        """),
    **_all("stopped", "ENOTSUP|EAFNOSUPPORT", "open-a-pair-of-sockets-to-the-hypervisor"),
    **_all("stopped", "ECONNREFUSED|EPERM|EPROTONOSUPPORT", "talk-to-the-audit-system"),
    # files.py
    **_all("stopped", "ENOENT", """
        read-the-machines-password-hashes read-the-machines-group-passwords read-who-may-become-root
        read-the-machines-own-id read-the-list-of-mounted-disks read-a-host-key-of-ssh read-the-package-database
        read-the-token-of-kubernetes read-the-marker-of-docker read-the-docker-socket
        read-the-docker-socket-by-its-other-name read-the-containerd-socket read-the-podman-socket
        read-the-system-bus-socket read-the-kernels-messages-device read-the-memory-device
        read-the-io-port-device read-the-first-disk read-the-first-virtual-disk read-the-first-loop-device
        open-the-loop-control open-the-fuse-device open-the-tunnel-device open-the-virtual-machine-device
        open-the-hypervisors-socket-device open-the-page-fault-device open-the-cpu-registers-device
        open-the-display-device open-the-input-devices read-the-machines-serial-number read-a-control-group
        read-the-memory-control-group read-the-kernels-symbols-in-sys read-the-boot-image list-var-lib list-var-log
        list-srv list-mnt list-media list-boot list-message-queues list-huge-pages list-device-mappings
        list-the-kernels-debugging see-the-clients-directory see-the-state-directory see-another-sandboxs-record
        see-the-machines-tmp follow-a-link-out-of-the-root
        """),
    **_all("stopped", "empty", """
        list-sys list-run list-home list-tmp list-var-tmp list-shared-memory list-terminals see-the-root-homes-files
        """),
    **_all("stopped", "absent", """
        see-the-callers-home see-the-environment-of-the-client read-every-environment-there-is
        """),
    **_all("stopped", "EACCES", """
        read-the-environment-of-the-first-process read-the-memory-map-of-the-first-process
        read-the-memory-of-the-first-process read-the-auxiliary-vector-of-the-first-process
        read-the-io-counts-of-the-first-process follow-the-program-of-the-first-process
        follow-the-directory-of-the-first-process follow-the-root-of-the-first-process
        follow-the-mount-namespace-of-the-first-process follow-the-user-namespace-of-the-first-process
        follow-a-descriptor-of-the-first-process list-the-mapped-files-of-the-first-process
        write-over-the-program-of-the-first-process
        """),
    **_all("stopped", "EACCES|EPERM|ENOENT", """
        read-the-kernel-stack-of-the-first-process read-the-system-call-of-the-first-process
        """),
    **_all("stopped", "EACCES|EACCES+ENOENT", "open-each-descriptor-of-the-first-process"),
    **_all("stopped", "three", "inherit-descriptors"),
    **_all("stopped", "EBADF|EBADF+ENOTDIR", "open-files-below-inherited-directories"),
    **_all("stopped", "own", "lock-a-file-that-the-machine-has-locked"),
    **_all("limited", "copy", "change-a-program-of-the-machine change-the-users-of-the-machine"),
    **_all("stopped|limited", "EACCES|EROFS|copy", "change-the-lent-python"),
    **_all("stopped", "EROFS", "make-a-file-in-dev"),
    **_all("stopped", "EPERM", """
        make-a-disk-device make-a-memory-device make-a-terminal-device
        """),
    **_all("stopped", "EPERM|EACCES", "trust-an-attribute-of-the-overlay"),
    **_all("stopped", "ENXIO", "open-the-callers-terminal"),
    **_all("info", "/", "go-through-the-working-directory-of-a-command"),
    **_all("info", "", "list-devices list-the-top list-etc"),
    # proc.py
    **_all("stopped", "null|ENOENT", """
        read-proc-cmdline read-proc-config-gz read-proc-diskstats read-proc-interrupts read-proc-iomem
        read-proc-kallsyms read-proc-kcore read-proc-key-users read-proc-keys read-proc-kpagecount
        read-proc-kpageflags read-proc-latency-stats read-proc-locks read-proc-modules read-proc-partitions
        read-proc-sched-debug read-proc-slabinfo read-proc-timer-list read-proc-vmallocinfo read-proc-zoneinfo
        press-an-emergency-key
        """),
    **_all("stopped", "empty|ENOENT", """
        list-proc-acpi list-proc-asound list-proc-bus list-proc-fs list-proc-irq list-proc-scsi
        """),
    **_all("stopped", "EACCES|EROFS", """
        write-the-program-for-cores write-what-happens-on-a-panic write-the-host-name-setting
        write-the-randomisation-of-addresses write-who-may-read-kernel-addresses write-the-largest-process-number
        write-the-largest-shared-memory write-the-overcommitment-of-memory write-the-dropping-of-caches
        write-the-swappiness write-the-lowest-mapped-address write-the-number-of-open-files
        write-the-dumping-of-setuid-programs write-the-protection-of-links write-the-forwarding-of-packets
        write-the-lowest-ordinary-port write-the-number-of-user-namespaces write-the-number-of-inotify-instances
        """),
    **_all("stopped", "EACCES|EROFS|ENOENT", "write-the-program-that-loads-modules write-the-emergency-keys"),
    **_all("info", "", """
        list-what-proc-lets-read read-the-version-of-the-kernel read-the-size-of-memory read-the-kind-of-processor
        read-the-load read-the-time-since-the-start
        """),
    **_all("stopped", "absent", "read-where-the-sandbox-lies-from-its-mounts"),
    **_all("stopped", "own", "read-the-names-of-control-groups count-process-numbers"),
    **_all("stopped", "EPERM|EACCES", "map-more-users"),
    **_all("stopped|info", "EPERM|EACCES|written", "allow-group-changes"),
    **_all("stopped|info", "EACCES|lowered", "lower-the-own-badness-for-out-of-memory"),
    # processes.py
    **_all("stopped", "absent", "see-processes-of-the-machine"),
    **_all("stopped", "ESRCH", """
        signal-a-process-of-the-machine be-signalled-for-a-descriptor-of-others hold-a-process-of-the-machine
        trace-a-process-of-the-machine read-the-memory-of-a-process-of-the-machine
        change-the-limits-of-a-process-of-the-machine change-the-priority-of-a-process-of-the-machine
        pin-a-process-of-the-machine-to-a-processor
        """),
    **_all("info", "sent", "signal-every-process"),
    **_all("stopped", "EPERM", """
        trace-the-first-process read-the-memory-of-the-first-process-by-a-call raise-an-ambient-right set-rights
        become-a-member-of-a-group name-the-machine name-the-domain tune-the-clock run-ahead-of-everybody
        take-real-time-input-and-output raise-the-limit-of-open-files raise-the-limit-of-core-files
        raise-the-limit-of-locked-memory raise-the-limit-of-message-queues raise-the-limit-of-pending-signals
        raise-the-limit-of-real-time-priority type-into-the-callers-terminal type-into-a-terminal-with-high-bits-set
        """),
    **_all("info", "traced", "read-the-memory-of-a-neighbour"),
    **_all("stopped", "alive", "kill-the-first-process"),
    **_all("stopped", "none", "hold-any-right"),
    **_all("stopped", "NoNewPrivs", "gain-rights-by-a-program"),
    **_all("stopped", "filter", "run-without-the-filter"),
    **_all("stopped", "EINVAL", "allow-new-privileges-again"),
    **_all("stopped", "EINVAL|EPERM|EINVAL+EPERM", "become-a-user-of-the-machine"),
    **_all("stopped", "shifted", "run-as-root-of-the-machine"),
    **_all("stopped", "same", "gain-rights-by-a-setuid-file"),
    **_all("stopped", "ENOENT", """
        attach-shared-memory-of-the-machine attach-a-message-queue-of-the-machine attach-semaphores-of-the-machine
        """),
    **_all("stopped", "EMFILE|ENOSYS", "create-a-posix-message-queue"),
    **_all("stopped", "EACCES|EPERM", "take-a-higher-priority"),
    **_all("stopped", "ENOMEM|EPERM", "lock-memory take-huge-pages"),
    **_all("limited", "EMFILE", "make-more-inotify-instances-than-allowed open-more-files-than-allowed"),
    # network.py
    **_all("stopped", "ECONNREFUSED", """
        connect-to-the-machines-loopback connect-to-another-loopback-address connect-to-any-address
        connect-to-the-mapped-loopback connect-to-an-abstract-socket
        """),
    **_all("stopped", "ECONNREFUSED|EADDRNOTAVAIL|ENETUNREACH", "connect-to-the-machines-loopback-of-version-6"),
    **_all("stopped", "ENETUNREACH", """
        connect-to-the-machines-own-address connect-to-the-metadata-of-the-cloud
        connect-to-the-machine-behind-the-gateway connect-to-the-forwarder-of-names connect-to-dockers-bridge
        connect-to-the-local-network connect-to-the-internet connect-to-the-internet-of-version-6
        send-a-datagram-to-the-internet send-to-everybody
        """),
    **_all("stopped", "ENOENT", """
        connect-to-a-socket-in-tmp connect-to-a-socket-in-the-home connect-to-a-socket-in-the-working-directory
        connect-to-the-sockets-by-the-root-of-a-process connect-to-the-docker-socket connect-to-the-system-bus
        connect-to-the-supervisor connect-to-another-sandboxs-agent connect-to-the-own-agent
        """),
    **_all("stopped", "EAI -3|EAI -2", "resolve-a-name"),
    **_all("stopped", "lo", "see-interfaces-of-the-machine"),
    **_all("stopped", "empty", "see-routes-of-the-machine see-neighbours-of-the-machine"),
    **_all("stopped", "absent", "see-connections-of-the-machine see-unix-sockets-of-the-machine"),
    **_all("stopped", "works", "use-the-own-loopback"),
    **_all("stopped", "own", "bind-the-sockets-of-the-machine-anew"),
}  # fmt: skip
