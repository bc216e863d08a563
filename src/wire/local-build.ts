/**
 * A build that runs beside the mesh on a node's machine and takes processors of it: `mesh jobserver`.
 *
 * `POST /api/local-builds` with a LocalBuild is answered by lines of JSON, each a LocalShare, for as long as
 * the connection lasts. Its end gives the processors back, however it comes.
 */
import { z } from 'zod'

/** As many as any derivation can ask for. */
export const LOCAL_CPUS_MAX = 4096
export const LOCAL_BUILDS_PATH = '/api/local-builds'

export const LocalBuild = z.object({
  /** The most that it can use. */
  cpus: z.int().min(1).max(LOCAL_CPUS_MAX),
  /** Of the client: what runs below it is no stranger to the node's policy. */
  pid: z.int().min(1).optional(),
})
export type LocalBuild = z.infer<typeof LocalBuild>

/** Processors that it should use from now on. */
export const LocalShare = z.object({ cpus: z.int().min(1).max(LOCAL_CPUS_MAX) })
export type LocalShare = z.infer<typeof LocalShare>
