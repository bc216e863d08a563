/** Why none of the nodes that match is there: each is away in a way that ends. */
import type { WaitClass } from '../../wire/api.ts'
import type { NodeEntry, WaitReason } from '../model.ts'
import { listSome } from './words.ts'

export function absenceReason(possible: readonly NodeEntry[]): WaitReason {
  const named = possible.map(({ record, state, note }) =>
    // Of a connection that ended there is nothing to tell but that.
    note === '' || state === 'lost'
      ? `${record.name} (${state})`
      : `${record.name} (${state}: ${note})`,
  )
  const all = (...states: readonly NodeEntry['state'][]): boolean =>
    possible.every(({ state }) => states.includes(state))
  const which =
    possible.length === 1 ? 'the 1 matching node is' : `all ${possible.length} matching nodes are`
  const list = listSome(named)
  const by = (wait: WaitClass, text: string): WaitReason => ({ class: wait, text })
  const noted = listSome(possible.map(({ record, note }) => `${record.name}: ${note}`))
  if (all('draining', 'drained')) return by('drain', `${which} drained: ${noted}`)
  if (all('quarantined')) return by('quarantined', `${which} in quarantine: ${noted}`)
  if (all('sleeping', 'waking')) return by('power', `waiting for power: ${which} off: ${list}`)
  return by('away', `waiting, not failed: no matching node is there: ${list}`)
}
