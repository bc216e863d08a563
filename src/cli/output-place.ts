/**
 * The directory that `mesh submit -o` fills: what an earlier submit wrote there is replaced, anything
 * else is refused. A small file in it says what was written.
 */
import { lstatSync } from 'node:fs'
import { readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { hasCode, MeshError } from '../base/errors.ts'
import { makeDirectories } from '../files/make-directories.ts'
import { randomId, type Random } from '../base/random.ts'
import { hashingSink, ingest } from '../files/ingest.ts'
import { layOut, type ReadBlob } from '../files/lay-out.ts'
import { DerivationName, OutputName } from '../wire/names.ts'
import { EntryJson, sameEntry, type Entry } from '../wire/tree.ts'

export const MARKER_FILE = '.mesh-outputs.json'
const MARKER_BYTES_MAX = 64 * 1024 * 1024
/** By name, what a submit wrote there; while one writes, both what was and what comes. */
const Marker = z.object({
  v: z.literal(1),
  outputs: z.record(z.string(), z.array(EntryJson).max(2)),
})
type Written = Map<string, Entry[]>

/** One output under its name in the directory. */
export interface OutputPlace {
  readonly name: string
  readonly entry: Entry
}

/** The name of an output: `DERIVATION` for its `out`, `DERIVATION.OUTPUT` for others. */
export const placeName = (derivation: string, output: string): string =>
  output === 'out' ? derivation : `${derivation}.${output}`

/** Where each output goes. Throws MESH0210 for a name that could lead elsewhere. */
export function outputPlaces(
  outputs: Readonly<Record<string, Readonly<Record<string, Entry>>>>,
): OutputPlace[] {
  return Object.entries(outputs).flatMap(([derivation, made]) =>
    Object.entries(made).map(([output, entry]) => {
      if (!DerivationName.safeParse(derivation).success || !OutputName.safeParse(output).success)
        throw new MeshError(
          'MESH0210',
          `the daemon names an output ${JSON.stringify(`${derivation}.${output}`)}`,
        )
      return { name: placeName(derivation, output), entry }
    }),
  )
}

/** Refuses with MESH0209 a directory in which one of `names` is something that no submit wrote. Cheap: before the build. */
export async function checkPlaces(directory: string, names: readonly string[]): Promise<void> {
  const written = await readMarker(directory)
  for (const name of names) {
    const path = join(directory, name)
    if (exists(path) && !written.has(name)) throw refused(path, 'was not written by mesh submit')
  }
}

/**
 * Lays the outputs out beside their places, then swaps them in; what is there with the same content stays
 * untouched. Killed at any moment, the next submit may still replace what is there.
 */
export async function writePlaces(
  { read, random }: { readonly read: ReadBlob; readonly random: Random },
  directory: string,
  places: readonly OutputPlace[],
): Promise<void> {
  await makeDirectories(directory)
  const temporary = (): string => join(directory, `.${randomId(random, 'mesh')}`)
  const written = await readMarker(directory)
  const swaps: {
    readonly path: string
    readonly beside: string
    readonly name: string
    readonly entry: Entry
  }[] = []
  try {
    for (const { name, entry } of places) {
      const path = join(directory, name)
      const before = await readPlace(path, written.get(name))
      if (before !== undefined && sameEntry(before, entry)) continue
      const beside = temporary()
      await layOut(read, entry, beside)
      swaps.push({ path, beside, name, entry })
      written.set(name, before === undefined ? [entry] : [before, entry])
    }
    if (swaps.length === 0) return
    await writeMarker(directory, written, temporary())
    for (const { path, beside, name, entry } of swaps) {
      if (exists(path)) {
        const aside = temporary()
        await rename(path, aside)
        await rename(beside, path)
        await rm(aside, { recursive: true, force: true })
      } else await rename(beside, path)
      written.set(name, [entry])
    }
    await writeMarker(directory, written, temporary())
  } catch (error) {
    for (const { beside } of swaps) await rm(beside, { recursive: true, force: true })
    throw error
  }
}

/** What is at `path`, if anything. Throws MESH0209 for what no submit wrote, or what was changed since. */
async function readPlace(
  path: string,
  before: readonly Entry[] | undefined,
): Promise<Entry | undefined> {
  if (!exists(path)) return undefined
  if (before === undefined) throw refused(path, 'was not written by mesh submit')
  const found = await ingest(
    hashingSink(() => undefined),
    path,
  )
  if (!before.some((entry) => sameEntry(found, entry)))
    throw refused(path, 'was changed since mesh submit wrote it')
  return found
}

async function readMarker(directory: string): Promise<Written> {
  const path = join(directory, MARKER_FILE)
  let bytes: Buffer
  try {
    bytes = await readFile(path)
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return new Map()
    if (hasCode(error, 'ENOTDIR')) throw refused(directory, 'is not a directory')
    throw error
  }
  const parsed =
    bytes.byteLength > MARKER_BYTES_MAX ? undefined : Marker.safeParse(parseJson(bytes))
  if (!parsed?.success) throw refused(path, 'is not what mesh submit writes there')
  return new Map(Object.entries(parsed.data.outputs))
}

async function writeMarker(directory: string, outputs: Written, beside: string): Promise<void> {
  const marker: z.infer<typeof Marker> = { v: 1, outputs: Object.fromEntries(outputs) }
  try {
    await writeFile(beside, `${JSON.stringify(marker, null, 2)}\n`, { flag: 'wx', flush: true })
    await rename(beside, join(directory, MARKER_FILE))
  } catch (error) {
    await rm(beside, { force: true })
    throw error
  }
}

function parseJson(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString('utf8'))
  } catch {
    return undefined // the caller refuses it by name
  }
}

function exists(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false }) !== undefined
}

const refused = (path: string, reason: string): MeshError =>
  new MeshError('MESH0209', `${path} ${reason}; it is left alone`, {
    where: path,
    hints: ['choose another directory with -o, or remove it yourself'],
  })
