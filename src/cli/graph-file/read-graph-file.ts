/** Opens a derivation file of any of the three kinds: TOML, JSON, or a TypeScript or JavaScript module. */
import { readFile, stat } from 'node:fs/promises'
import { registerHooks } from 'node:module'
import { basename, dirname, extname, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { hasCode, MeshError, messageOf } from '../../base/errors.ts'
import { errorAt, Positions, type Located } from './located.ts'

const FILE_BYTES_MAX = 64 * 1024 * 1024
const MODULE_EXTENSIONS = ['.ts', '.mts', '.js', '.mjs']
const API_MODULE = '@buildmesh/mesh/api'

export interface GraphFile {
  readonly located: Located
  /** What people see in lists. */
  readonly name: string
  /** Paths in the file are relative to it. */
  readonly directory: string
}

/** Throws MESH0201, MESH0205, MESH0211. */
export async function readGraphFile(cwd: string, file: string): Promise<GraphFile> {
  const path = resolve(cwd, file)
  await check(path, file)
  const extension = extname(path)
  const rest = { name: basename(path), directory: dirname(path) }
  if (MODULE_EXTENSIONS.includes(extension))
    return { located: await importModule(path, file), ...rest }
  if (extension === '.drv')
    throw new MeshError('MESH0203', 'derivations of Nix and Guix cannot be submitted yet', {
      where: file,
    })
  const text = decode(await readFile(path), file)
  // The parsers are loaded only when one is needed.
  if (extension === '.json')
    return { located: (await import('./json.ts')).parseJsonText(file, text), ...rest }
  return { located: (await import('./toml.ts')).parseToml(file, text), ...rest }
}

async function check(path: string, file: string): Promise<void> {
  const found = await stat(path).catch((error: unknown) => {
    throw hasCode(error, 'ENOENT', 'ENOTDIR')
      ? new MeshError('MESH0205', `${file} does not exist (looked at ${path})`, { cause: error })
      : error
  })
  if (!found.isFile()) throw new MeshError('MESH0203', `${file} is not a file`)
  if (found.size > FILE_BYTES_MAX)
    throw new MeshError(
      'MESH0211',
      `${file} has ${found.size} bytes, the limit is ${FILE_BYTES_MAX}`,
    )
}

function decode(bytes: Uint8Array, file: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch (error) {
    throw new MeshError('MESH0201', 'the file is not UTF-8', { where: file, cause: error })
  }
}

/** The default export, called when it is a function. It runs with the rights of the user, as any script does. */
async function importModule(path: string, file: string): Promise<Located> {
  // A generator finds the API of the mesh that runs it, also where none is installed beside it.
  const api = new URL(import.meta.url.endsWith('.ts') ? '../api.ts' : '../api.js', import.meta.url)
    .href
  const hooks = registerHooks({
    resolve: (specifier, context, next) =>
      specifier === API_MODULE ? { url: api, shortCircuit: true } : next(specifier, context),
  })
  try {
    const module: unknown = await import(pathToFileURL(path).href)
    let value: unknown =
      typeof module === 'object' && module !== null && 'default' in module
        ? module.default
        : undefined
    if (value === undefined)
      throw new MeshError(
        'MESH0203',
        'the module has no default export: export default defineGraph(…)',
        { where: file },
      )
    if (typeof value === 'function') value = await value()
    return { name: file, value, positions: new Positions(), lines: [] }
  } catch (error) {
    if (error instanceof MeshError) throw error
    if (error instanceof SyntaxError)
      throw errorAt({ name: file, lines: [] }, undefined, 'MESH0201', messageOf(error))
    throw new MeshError(
      'MESH0203',
      `running ${file}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`,
      { where: file, cause: error },
    )
  } finally {
    hooks.deregister()
  }
}
