/** Where the configuration is written, and the writing: whole or not at all, and never over another by accident. */
import { constants } from 'node:fs'
import { access, link, open, rename, rm } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { hasCode, isDiskFull, MeshError, messageOf } from '../../../base/errors.ts'
import { makeDirectories } from '../../../files/make-directories.ts'
import type { CommandLine } from '../../config/command-line.ts'
import type { ConfigIo, Env } from '../../config/config-io.ts'
import { configPlaces } from '../../config/read-config-file.ts'
import { nearestDirectory } from '../measure/machine-here.ts'

export interface ConfigPlace {
  readonly path: string
  /** Whether a daemon finds it without being told. */
  readonly isUsual: boolean
  /** Whether there is such a file. */
  readonly isTaken: boolean
}

/**
 * The place that was named, else the usual one: of the machine for root, else of the user.
 * Throws MESH0104 when nothing can be written there, or when a daemon would read another file first.
 */
export async function findConfigPlace(
  { flags }: CommandLine,
  env: Env,
  io: ConfigIo,
): Promise<ConfigPlace> {
  const { named, ofUser, ofMachine } = configPlaces(flags, env, io)
  const usual = io.isRoot ? ofMachine : ofUser
  const path = named === undefined ? usual : resolve(io.cwd, named)
  if (named === undefined && path !== ofUser && isThere(ofUser, io))
    throw new MeshError('MESH0604', `a daemon of this user reads ${ofUser} and not ${path}`, {
      hints: [`write that one: --config ${ofUser}`, 'or remove it first'],
    })
  await checkWritable(path)
  return { path, isUsual: path === usual || path === ofUser, isTaken: isThere(path, io) }
}

function isThere(path: string, io: ConfigIo): boolean {
  try {
    return io.readFile(path) !== undefined
  } catch {
    return true // A directory, or a file that is not ours to read.
  }
}

async function checkWritable(path: string): Promise<void> {
  const directory = await nearestDirectory(dirname(path))
  try {
    await access(directory, constants.W_OK | constants.X_OK)
  } catch (error) {
    throw unwritable(path, error)
  }
}

/** Throws MESH0604 when there is a file that may not be replaced, one that came meanwhile too. */
export async function writeConfig(
  path: string,
  text: string,
  { isReplacing }: { readonly isReplacing: boolean },
): Promise<void> {
  const directory = dirname(path)
  const temporary = join(directory, `.${basename(path)}-${process.pid}`)
  try {
    await makeDirectories(directory, 0o755)
    // One of a process that was killed.
    await rm(temporary, { force: true })
    const file = await open(temporary, 'wx', 0o644)
    try {
      await file.writeFile(text)
      await file.sync()
    } finally {
      await file.close()
    }
    if (isReplacing) await rename(temporary, path)
    else await link(temporary, path).catch(refuseTaken(path))
  } catch (error) {
    if (error instanceof MeshError || isDiskFull(error)) throw error
    throw unwritable(path, error)
  } finally {
    await rm(temporary, { force: true }).catch(() => undefined) // What went wrong is told already.
  }
}

const refuseTaken = (path: string) => (error: unknown) => {
  throw hasCode(error, 'EEXIST') ? takenError(path) : error
}

const unwritable = (path: string, cause: unknown): MeshError =>
  new MeshError('MESH0104', `nothing can be written there: ${messageOf(cause)}`, {
    where: path,
    hints: ['another place: --config FILE'],
    cause,
  })

export const takenError = (path: string): MeshError =>
  new MeshError('MESH0604', 'there is a configuration already, which is not replaced unasked', {
    where: path,
    hints: ['replace it: --force', 'write another one: --config FILE'],
  })
