/**
 * What an executor writes down of the builds that it runs, for whoever comes after it is killed: their
 * first process with its start time, and their control groups. Removed at the end of each build.
 */
import { mkdirSync, readdirSync, readFileSync, unlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import { hasCode } from '../base/errors.ts'
import type { GroupPaths } from './groups/build-group.ts'
import { CONTROLS } from './groups/group-places.ts'
import { bootId, findProcess } from './process-list.ts'

const Place = z.object({ version: z.union([z.literal(1), z.literal(2)]), path: z.string() })
const BuildRecord = z.object({
  attempt: z.string(),
  /** Of the attempt. */
  directory: z.string(),
  /** See bootId(): after a restart of the machine nothing of it is alive. */
  boot: z.string(),
  pid: z.int().min(1),
  startTicks: z.int().min(0),
  groups: z.partialRecord(z.enum(CONTROLS), Place),
})
export type BuildRecord = z.infer<typeof BuildRecord>

const directoryOf = (dataDirectory: string): string => join(dataDirectory, 'sandbox', 'running')
const pathOf = (dataDirectory: string, attempt: string): string =>
  join(directoryOf(dataDirectory), encodeURIComponent(attempt))

/** Synchronous, a few dozen microseconds: nothing of the build may come to be unknown meanwhile. */
export function writeBuildRecord(
  dataDirectory: string,
  build: {
    readonly attempt: string
    readonly directory: string
    readonly pid: number
    readonly groups: GroupPaths
  },
): void {
  const process = findProcess(build.pid)
  if (process === undefined) return // over already
  const record: BuildRecord = { ...build, boot: bootId(), startTicks: process.startTicks }
  mkdirSync(directoryOf(dataDirectory), { recursive: true, mode: 0o700 })
  writeFileSync(pathOf(dataDirectory, build.attempt), JSON.stringify(record), { mode: 0o600 })
}

export function removeBuildRecord(dataDirectory: string, attempt: string): void {
  try {
    unlinkSync(pathOf(dataDirectory, attempt))
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error
  }
}

/** Those of builds that were not seen to end. What was cut off by a crash while it was written is none. */
export function readBuildRecords(dataDirectory: string): BuildRecord[] {
  let names: string[]
  try {
    names = readdirSync(directoryOf(dataDirectory))
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error
    return []
  }
  return names.flatMap((name) => {
    const path = join(directoryOf(dataDirectory), name)
    const parsed = BuildRecord.safeParse(parseJson(readFileSync(path, 'utf8')))
    if (!parsed.success) unlinkSync(path)
    return parsed.data ?? []
  })
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
