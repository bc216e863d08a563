/**
 * Looks at this machine and measures it for a few seconds, telling what it does. All that it makes is in one
 * directory on the disk of the data directory, which is gone afterwards, whatever happened.
 */
import { mkdir, mkdtemp } from 'node:fs/promises'
import { join } from 'node:path'
import type { Clock } from '../../../base/clock.ts'
import { isDiskFull, MeshError, messageOf } from '../../../base/errors.ts'
import { plural } from '../../../base/units.ts'
import { openExecutor } from '../../../build/executor.ts'
import { measureSpeed } from '../../../build/measure-speed.ts'
import { removeTree } from '../../../files/workers/remove-job.ts'
import { measureBusyCpus } from './busy-cpus.ts'
import { lookAtMachine, nearestDirectory } from './machine-here.ts'
import type { Machine, Measured } from '../machine.ts'
import { measureDisk } from './measure-disk.ts'
import { measureScaling } from './measure-scaling.ts'
import { measureStarts } from './measure-starts.ts'

export interface Findings {
  readonly machine: Machine
  readonly measured: Measured
}

export interface MeasureOptions {
  /** The data directory, which need not exist and is not made. */
  readonly directory: string
  readonly home: string
  readonly machineRoot: string
  readonly signal: AbortSignal
  /** Called with what begins now. */
  readonly onStep: (step: string) => void
}

/** Rejects with the signal's reason. Throws MESH0104 where nothing can be written on that disk. */
export async function takeMeasurements(
  { clock }: { readonly clock: Clock },
  { directory, home, machineRoot, signal, onStep }: MeasureOptions,
): Promise<Findings> {
  signal.throwIfAborted()
  const scratch = await makeScratch(directory)
  try {
    onStep('what the machine is')
    const builds = join(scratch, 'builds')
    await mkdir(builds)
    await using executor = await openExecutor(
      { clock, log: { info() {}, warn() {} } },
      { directory: builds },
    )
    const machine = await lookAtMachine(directory, {
      sandbox: executor.sandbox,
      home,
      machineRoot,
    })
    onStep('what others use of it')
    const busyCpus = await measureBusyCpus({ clock }, { cpus: machine.cpus, signal })
    onStep('one processor')
    const speed = await measureSpeed()
    const scaling = await measureScaling(machine.cpus, {
      signal,
      onRound: (threads) => onStep(`${plural(threads, 'processor')} at once`),
    })
    onStep('the disk')
    const files = join(scratch, 'files')
    await mkdir(files)
    const { freeBytes } = machine.disk
    const disk = await measureDisk({ clock }, files, { freeBytes, signal })
    onStep('the start of a build')
    const starts = await measureStarts({ clock, executor }, builds, { signal })
    return { machine, measured: { speed, scaling, busyCpus, disk, starts } }
  } finally {
    await removeTree(scratch)
  }
}

async function makeScratch(directory: string): Promise<string> {
  const place = await nearestDirectory(directory)
  try {
    return await mkdtemp(join(place, '.mesh-calibrate-'))
  } catch (error) {
    if (isDiskFull(error)) throw error
    throw new MeshError('MESH0104', `the disk cannot be measured: ${messageOf(error)}`, {
      where: directory,
      hints: ['a data directory of yours: --data DIR'],
      cause: error,
    })
  }
}
