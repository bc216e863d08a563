/** Machines of other people, for the tests of the set-up. */
import type { Machine, Measured } from '../../../src/node/setup/machine.ts'

export const GIB = 1024 ** 3

/** A server with a disk of its own, unless told otherwise. */
export function machine(more: Partial<Machine> = {}): Machine {
  return {
    cpus: 8,
    memoryBytes: 32 * GIB,
    disk: { directory: '/data', totalBytes: 500 * GIB, freeBytes: 400 * GIB, isOwn: true },
    walls: { method: 'helper', reasons: [] },
    ownerSigns: [],
    hasBattery: false,
    systems: ['x86_64-linux'],
    ...more,
  }
}

/** All processors are real and free, unless told otherwise. */
export function measured(cpus: number, more: Partial<Measured> = {}): Measured {
  return {
    speed: 1,
    scaling: [
      { threads: 1, times: 1 },
      ...(cpus > 1 ? [{ threads: cpus, times: cpus * 0.9 }] : []),
    ],
    busyCpus: 0,
    disk: {
      writeBytesPerS: 1e9,
      readBytesPerS: 1e9,
      isReadCached: false,
      filesPerS: 5000,
      syncMs: 1,
    },
    starts: [{ isolation: 'host', ms: 8 }],
    ...more,
  }
}
