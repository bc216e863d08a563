/** Which job a person means: an id or a prefix of one, an attempt, a request, REQUEST/NAME, or the name of a derivation. */
import { z } from 'zod'
import { MeshError } from '../base/errors.ts'
import { JobView } from '../wire/api.ts'
import type { Client } from './client.ts'

const Jobs = z.array(JobView)

/** Jobs, the newest first: of one request, of one name, or all. */
export function fetchJobs(
  client: Client,
  only: { readonly request?: string | undefined; readonly name?: string | undefined } = {},
): Promise<JobView[]> {
  const query = new URLSearchParams()
  if (only.request !== undefined) query.set('request', only.request)
  if (only.name !== undefined) query.set('name', only.name)
  return client.json(Jobs, `/api/jobs${query.size === 0 ? '' : `?${query.toString()}`}`)
}

/** The jobs that `text` may mean, at least one, the newest first. Throws MESH0601 for none. */
export async function resolveJobs(client: Client, text: string): Promise<[JobView, ...JobView[]]> {
  if (text.startsWith('j-') || text.startsWith('a-'))
    return [await client.json(JobView, `/api/jobs/${encodeURIComponent(text)}`)]
  const slash = text.indexOf('/')
  const request = slash !== -1 ? text.slice(0, slash) : text.startsWith('r-') ? text : undefined
  const name = slash !== -1 ? text.slice(slash + 1) : request === undefined ? text : undefined
  const [first, ...rest] = (await fetchJobs(client, { request, name })).filter(
    (job) => name === undefined || job.name === name,
  )
  if (first === undefined)
    throw new MeshError('MESH0601', `there is no job ${JSON.stringify(text)}`, {
      hints: ['see them all: mesh jobs'],
    })
  return [first, ...rest]
}

/** The job that `text` means: the newest of that name, or the only one of a request. Throws MESH0602. */
export async function resolveJob(client: Client, text: string): Promise<JobView> {
  const [first, ...rest] = await resolveJobs(client, text)
  if (text.startsWith('r-') && !text.includes('/') && rest.length > 0)
    throw new MeshError(
      'MESH0602',
      `the request ${text} has ${rest.length + 1} jobs: ${[first, ...rest]
        .slice(0, 10)
        .map(({ id, name }) => `${name} (${id})`)
        .join(', ')}${rest.length > 9 ? ' …' : ''}`,
      { hints: [`name one: ${text}/${first.name}`] },
    )
  return first
}
