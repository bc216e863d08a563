/** The filters of lists, from the options of a command to the query of the API. The owner applies them. */
import { MeshError } from '../base/errors.ts'
import { nearestOf } from '../base/nearest.ts'
import type { Arguments } from './command.ts'

/** Rows of a list, which the owner holds as well. */
const LIMIT_MAX = 10_000

/** Words for several states at once. */
const GROUPS: Readonly<Record<string, readonly string[]>> = {
  active: ['waiting', 'leased', 'running'],
  ended: ['done', 'failed', 'cancelled'],
}

/** `?…` for the filters that were given; throws MESH0002 for a state that there is not. */
export function filterQuery(args: Arguments, states: readonly string[]): string {
  const query = new URLSearchParams()
  const asked = args.text('state')
  if (asked !== undefined) query.set('state', statesOf(asked, states).join(','))
  for (const name of ['request', 'user', 'node', 'name']) {
    const value = args.text(name)
    if (value !== undefined) query.set(name, value)
  }
  const limit = limitOf(args)
  if (limit !== undefined) query.set('limit', String(limit))
  return query.size === 0 ? '' : `?${query.toString()}`
}

/** How many rows were asked for. */
export function limitOf(args: Arguments): number | undefined {
  return args.parsed('limit', parseLimit, `a number from 1 to ${LIMIT_MAX}`)
}

function statesOf(text: string, states: readonly string[]): string[] {
  const found = text.split(',').flatMap((word) => {
    const group = GROUPS[word]?.filter((state) => states.includes(state))
    if (group !== undefined) return group
    if (states.includes(word)) return [word]
    throw new MeshError(
      'MESH0002',
      `--state ${text}: there is no state ${JSON.stringify(word)}; the nearest are ${nearestOf(word, [...states, ...Object.keys(GROUPS)], 2).join(' and ')}`,
      { hints: [`all: ${[...states, ...Object.keys(GROUPS)].join(', ')}`] },
    )
  })
  return [...new Set(found)]
}

function parseLimit(text: string): number | undefined {
  const limit = /^\d{1,5}$/.test(text) ? Number(text) : 0
  return limit >= 1 && limit <= LIMIT_MAX ? limit : undefined
}
