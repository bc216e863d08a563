/**
 * How much of a machine builds get, when, and behind which walls; and what a job of the kind that it is
 * meant for should ask of it.
 */
import { formatSize, plural } from '../../../base/units.ts'
import { JOB_KINDS } from '../job-kinds.ts'
import type { Answers, Machine, Measured } from '../machine.ts'
import { GIB, MIB, roundSize, type Proposal } from './proposal.ts'

/** Left for the system of a machine that only builds. */
const SYSTEM_SHARE = 0.06
const SYSTEM_BYTES_MIN = 256 * MIB
/** Left for somebody who works at it. */
const OWNER_SHARE = 0.25
const OWNER_BYTES_MIN = 2 * GIB
/** Builds get at least this part in any case. */
const BUILDS_SHARE_MIN = 0.5

/** Hyperthreads give about 0.6 each. Where processors together give less than this, they are not really there. */
const REAL_SHARE_MIN = 0.5
/** Used by others while nothing of ours ran: then the machine is not ours alone. */
const BUSY_SHARE = 0.25
/** Less is not worth a word. */
const BUSY_CPUS_SHOWN = 0.1

/** Processors of an owner who is there, that builds may use all the same. */
const OWNER_CPUS_SHARE = 0.25

export function proposeWorker(
  machine: Machine,
  measured: Measured | undefined,
  answers: Answers,
): Proposal[] {
  const policy = proposePolicy(machine, measured)
  const chosen = answers.policy ?? String(policy.value)
  // Nothing is built while it is disabled; the rest is proposed for the day when it is not.
  const hasOwner = machine.ownerSigns.length > 0 || chosen === 'when-idle'
  const memory = proposeMemory(machine, hasOwner)
  const memoryBytes = answers.memoryBytes ?? memory.bytes
  const cpus = proposeCpus(machine, measured, { ...answers, memoryBytes })
  const count = answers.cpus ?? Number(cpus.value)
  return [
    ...(answers.cpus === undefined ? [cpus] : []),
    ...(answers.memoryBytes === undefined ? [memory.proposal] : []),
    proposeIsolation(machine),
    ...(answers.policy === undefined ? [policy] : []),
    ...(chosen === 'when-idle' ? [proposeOwnerCpus(machine)] : []),
    ...proposeNeeds(answers, { cpus: count, memoryBytes }),
  ]
}

function proposeMemory(
  { memoryBytes, memoryLimit }: Machine,
  hasOwner: boolean,
): { readonly bytes: number; readonly proposal: Proposal } {
  const wanted = hasOwner
    ? Math.max(OWNER_BYTES_MIN, memoryBytes * OWNER_SHARE)
    : Math.max(SYSTEM_BYTES_MIN, memoryBytes * SYSTEM_SHARE)
  const left = Math.min(wanted, memoryBytes * (1 - BUILDS_SHARE_MIN))
  const bytes = memoryBytes - left
  const limit = memoryLimit === undefined ? '' : ` (${memoryLimit})`
  return {
    bytes,
    proposal: {
      setting: 'worker.memory',
      value: roundSize(bytes),
      reason: `${formatSize(memoryBytes)}${limit}, of which ${formatSize(left)} stay for ${hasOwner ? 'the owner' : 'the system'}`,
    },
  }
}

function proposeCpus(
  { cpus, cpuLimit }: Machine,
  measured: Measured | undefined,
  answers: Answers & { readonly memoryBytes: number },
): Proposal {
  const propose = (value: number, reason: string): Proposal => ({
    setting: 'worker.cpus',
    value,
    reason,
  })
  const kind = JOB_KINDS[answers.jobs]
  const fed = Math.max(1, Math.floor(answers.memoryBytes / kind.memoryPerCpuBytes))
  const all = measured?.scaling.at(-1)
  // While others compute, it tells about them and not about the machine.
  const isFull = all !== undefined && all.threads >= cpus && !isBusy(cpus, measured)
  const real = isFull && all.times < cpus * REAL_SHARE_MIN ? Math.ceil(all.times) : cpus
  if (fed < real)
    return propose(
      fed,
      `of ${plural(cpus, 'processor')}: with ${formatSize(kind.memoryPerCpuBytes)} each, ${formatSize(answers.memoryBytes)} feed no more (${kind.why})`,
    )
  if (real < cpus)
    return propose(
      real,
      `of ${plural(cpus, 'processor')}, for together they did the work of only ${times(all?.times ?? real)}: a quota or neighbours take the rest`,
    )
  const limit = cpuLimit === undefined ? '' : `, ${cpuLimit}`
  const together = !isFull || cpus === 1 ? '' : `; together they do the work of ${times(all.times)}`
  return propose(cpus, `all that there ${cpus === 1 ? 'is' : 'are'}${limit}${together}`)
}

const isBusy = (cpus: number, measured: Measured | undefined): boolean =>
  (measured?.busyCpus ?? 0) > cpus * BUSY_SHARE

export const times = (count: number): string => String(Math.round(count * 10) / 10)

function proposeIsolation({ walls: { method, reasons } }: Machine): Proposal {
  return {
    setting: 'worker.isolation',
    value: 'auto',
    reason:
      method === 'none'
        ? `only unsealed builds until the machine can do more: ${reasons.at(-1) ?? 'no sandbox works'}`
        : `sealed builds work here, by ${method}`,
  }
}

function proposePolicy(
  { cpus, ownerSigns, cpuLimit }: Machine,
  measured: Measured | undefined,
): Proposal {
  const propose = (value: string, reason: string): Proposal => ({
    setting: 'worker.policy',
    value,
    reason,
  })
  const [sign] = ownerSigns
  if (sign !== undefined) return propose('when-idle', `somebody works here: ${sign}`)
  const busy = measured?.busyCpus ?? 0
  if (isBusy(cpus, measured))
    return propose(
      'proportional',
      `others used ${times(busy)} of ${plural(cpus, 'processor')} before builds began`,
    )
  const others =
    busy < BUSY_CPUS_SHOWN
      ? 'nothing else runs here'
      : `others use little, ${times(busy)} of ${plural(cpus, 'processor')}`
  return propose(
    'dedicated',
    cpuLimit === undefined
      ? `no desktop, no battery, and ${others}`
      : 'its share of the machine is limited already',
  )
}

function proposeOwnerCpus({ cpus }: Machine): Proposal {
  const value = Math.floor(cpus * OWNER_CPUS_SHARE)
  return {
    setting: 'worker.owner.cpus',
    value,
    reason:
      value === 0
        ? 'nothing is built while the owner is there: there is no processor to spare'
        : 'for builds while the owner is there, so that none stands still',
  }
}

/** What derivations of that kind should ask for, so that such a machine is used well. */
function proposeNeeds(
  { jobs }: Answers,
  room: { readonly cpus: number; readonly memoryBytes: number },
): Proposal[] {
  const kind = JOB_KINDS[jobs]
  const cpus = Math.min(kind.cpusPerJob, room.cpus)
  const memory = Math.min(cpus * kind.memoryPerCpuBytes, room.memoryBytes)
  const atOnce = Math.max(
    1,
    Math.min(Math.floor(room.cpus / cpus), Math.floor(room.memoryBytes / memory)),
  )
  return [
    {
      setting: 'needs.cpus',
      value: cpus,
      reason: `as max: ${plural(atOnce, 'such job')} at once here; more make one job of this kind hardly faster`,
    },
    {
      setting: 'needs.memory',
      value: roundSize(memory),
      reason: `until more is learnt: ${kind.why}`,
    },
  ]
}
