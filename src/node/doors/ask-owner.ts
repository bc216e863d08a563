/** A question to the owner of requests, asked by this node for its users. */
import { isErrorCode, MeshError } from '../../base/errors.ts'
import { Problem } from '../../wire/api.ts'
import { parseWith } from '../../wire/cbor.ts'
import type { Authority } from '../authority.ts'

/** The JSON that a GET of `path` gives. Throws what the owner answers. */
export async function askOwner(
  { authority, user }: { readonly authority: Authority; readonly user: string },
  path: string,
): Promise<unknown> {
  const { status, body } = await authority.answer({ verb: 'GET', path, body: '', user, hops: 0 })
  const value: unknown = JSON.parse(body)
  if (status === 200) return value
  const { code, detail, hints } = parseWith(Problem, value, 'problem')
  throw new MeshError(isErrorCode(code) ? code : 'MESH0505', detail, { hints })
}
