/** What a daemon does not know is an answer for those that only try a name. */
import { MeshError } from '../base/errors.ts'

/** Undefined where there is no such thing. */
export async function orNothing<T>(asked: Promise<T>): Promise<T | undefined> {
  try {
    return await asked
  } catch (error) {
    if (error instanceof MeshError && error.code === 'MESH0601') return undefined
    throw error
  }
}
