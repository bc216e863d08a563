/** What a lever is pulled on: a whole request, or one job. */
import { MeshError } from '../base/errors.ts'
import { JobView, RequestView } from '../wire/api.ts'
import type { Client } from './client.ts'
import { orNothing } from './or-nothing.ts'
import { fetchJobs, resolveJob } from './resolve-job.ts'

export type LeverTarget =
  | { readonly kind: 'request'; readonly id: string }
  | { readonly kind: 'job'; readonly id: string }

/**
 * A request or a job by its id or a prefix of it, a job as REQUEST/NAME or by the name of its derivation
 * (the newest of that name). A text that may be a name and a prefix is refused: the two differ too much to
 * guess. Throws MESH0601, MESH0602.
 */
export async function leverTarget(client: Client, text: string): Promise<LeverTarget> {
  if (text.includes('/')) return { kind: 'job', id: (await resolveJob(client, text)).id }
  if (text.startsWith('j-')) return { kind: 'job', id: text }
  if (text.startsWith('r-')) return { kind: 'request', id: text }
  const [named] = (await fetchJobs(client, { name: text })).filter(({ name }) => name === text)
  const request = await orNothing(
    client.json(RequestView, `/api/requests/${encodeURIComponent(text)}`),
  )
  if (named !== undefined && request !== undefined)
    throw new MeshError(
      'MESH0602',
      `"${text}" may be the derivation ${named.name} (${named.id}) or the request ${request.id}`,
    )
  if (named !== undefined) return { kind: 'job', id: named.id }
  if (request !== undefined) return { kind: 'request', id: request.id }
  const job = await client.json(JobView, `/api/jobs/${encodeURIComponent(text)}`)
  return { kind: 'job', id: job.id }
}
