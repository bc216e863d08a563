/** What is found on a machine of eight processors that runs programs of others too, and may not use its kvm in a sandbox. */
import { probed } from '../../../src/build/probe/known.ts'
import type { OfferFacts } from '../../../src/build/probe/machine-facts.ts'

export const FACTS: OfferFacts = {
  kernel: { system: 'x86_64-linux', release: '6.12.0' },
  userland: {
    system: 'x86_64-linux',
    platform: { id: 'debian', version: '12', label: 'debian-12' },
    how: 'header of /bin/sh',
  },
  cpus: probed(8, '/sys/fs/cgroup/cpu.max'),
  memoryBytes: probed(2 ** 34, 'memory of the machine'),
  disk: probed({ totalBytes: 1000, freeBytes: 300 }, 'statfs /var/lib/mesh'),
  systems: [
    { system: 'x86_64-linux', how: 'native', why: '' },
    { system: 'i686-linux', how: 'compat', why: '' },
    { system: 'aarch64-linux', how: 'emulated', why: '' },
  ],
  otherSystems: [{ system: 's390x-linux', why: 'qemu-user-static is not installed' }],
  kvm: { host: { ok: true, why: '' }, sandbox: { ok: false, why: 'open: Permission denied' } },
}
