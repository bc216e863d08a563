/**
 * What a node should be told, given its machine, what was measured and what its person said so far.
 *
 * A pure function: the same machine gives the same proposals, each with the reason that a person is shown.
 * Nothing that was said is proposed again.
 */
import { ROLES, type Role } from '../../../wire/api.ts'
import type { Answers, Machine, Measured } from '../machine.ts'
import { GIB, type Proposal } from './proposal.ts'
import { proposeConnection } from './propose-connection.ts'
import { floorOf, proposeStore } from './propose-store.ts'
import { proposeWorker } from './propose-worker.ts'

/** With less room than this a store would drop what it just fetched. */
const STORE_BYTES_MIN = 10 * GIB

/** In the order of the configuration file; `needs.*`, which is advice for derivations, last. */
export function propose(
  machine: Machine,
  measured: Measured | undefined,
  answers: Answers,
): Proposal[] {
  const proposed = proposeRoles(machine, answers)
  const roles: readonly string[] = answers.roles ?? [proposed.value].flat().map(String)
  return [
    ...(answers.roles === undefined ? [proposed] : []),
    ...proposeConnection(answers.place),
    ...(roles.includes('worker') ? proposeWorker(machine, measured, answers) : []),
    ...proposeStore(machine),
  ].toSorted((a, b) => rank(a) - rank(b))
}

const SECTIONS = ['node', 'worker', 'worker.owner', 'store', 'http', 'needs']
const rank = ({ setting }: Proposal): number =>
  SECTIONS.indexOf(setting.slice(0, setting.lastIndexOf('.')))

function proposeRoles({ disk, hasBattery }: Machine, { place }: Answers): Proposal {
  const roles = (wanted: readonly Role[], reason: string): Proposal => ({
    setting: 'node.roles',
    value: ROLES.filter((role) => wanted.includes(role)),
    reason,
  })
  switch (place.kind) {
    case 'alone':
      return roles(['root', 'worker', 'store'], 'one machine does all: plans, builds and keeps')
    case 'new':
      return roles(
        ['root', 'worker', 'store'],
        'the first machine does all; take "store" away once two others have it',
      )
    case 'join':
      if (hasBattery)
        return roles(
          ['worker'],
          'a machine with a battery comes and goes: what only its store had would be missed',
        )
      if (disk.freeBytes - floorOf(disk) < STORE_BYTES_MIN)
        return roles(['worker'], 'its disk has too little room to keep blobs for others')
      return roles(['worker', 'store'], 'it builds, and gives others what it built')
  }
}
