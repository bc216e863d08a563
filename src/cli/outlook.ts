/** What a submit says at once of derivations that no node can build, long before their turn comes. */
import { MeshError } from '../base/errors.ts'
import { DryRun } from '../wire/api.ts'
import type { Client } from './client.ts'

/** Derivations that are told of one by one. */
const TOLD_MAX = 5

export interface OutlookOptions {
  /** Also what waits already: the progress display does not tell of it. */
  readonly isAll: boolean
  readonly notice: (text: string) => void
}

/** Asks the owner what of the request could not start anywhere, and says so. A daemon that cannot tell is no error. */
export async function tellHopeless(
  client: Client,
  request: string,
  { isAll, notice }: OutlookOptions,
): Promise<void> {
  let answer: DryRun
  try {
    answer = await client.json(DryRun, `/api/requests/${request}/outlook`)
  } catch (error) {
    // An older owner, or one that has not got the request yet.
    if (error instanceof MeshError) return
    throw error
  }
  const hopeless = new Set(answer.unsatisfiable)
  const told = answer.derivations.filter(
    ({ name, state }) => hopeless.has(name) && (isAll || state === 'unknown'),
  )
  for (const { name, reason = 'no node matches' } of told.slice(0, TOLD_MAX))
    notice(`${name} cannot start anywhere: ${reason}  mesh why ${request}/${name}`)
  if (told.length > TOLD_MAX)
    notice(`so it is with ${told.length - TOLD_MAX} more; to fail at once: mesh submit --no-wait`)
}
