/**
 * Packs programs of this machine with all that they need to run somewhere else: links, interpreters, the
 * libraries that their headers name, and what compilers, perl and python say that they need.
 *
 * Nothing is executed but compilers and interpreters that were asked for, and these only about themselves.
 */
import { closeSync, openSync, readdirSync, readFileSync, readSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import type { Clock } from '../../../base/clock.ts'
import { hasCode, MeshError } from '../../../base/errors.ts'
import { readElf } from '../../../files/elf.ts'
import { askCompiler, isCompiler } from './ask-compiler.ts'
import { askTool } from './ask-tool.ts'
import { Libraries, LIBRARY_TRIPLETS } from './libraries.ts'
import { Picked } from './picked.ts'

/** What build scripts take for granted; those that are here. */
const BASE_PROGRAMS = (
  'sh bash env true false echo cat cp mv rm ln ls mkdir rmdir chmod touch test [ expr printf pwd date sleep ' +
  'sort uniq head tail tee tr cut wc basename dirname readlink realpath mktemp seq split join comm paste od ' +
  'id uname nproc install stat du md5sum sha1sum sha256sum sha512sum cksum tac nl fold nice timeout xargs ' +
  'find grep egrep fgrep sed awk diff cmp patch tar gzip gunzip zcat xz unxz bzip2 bunzip2 zstd getconf which'
).split(' ')
/** Of what is here. */
const BASE_FILES = ['/etc/os-release', '/etc/nsswitch.conf', '/etc/ld.so.conf']
/** Where a sandbox mounts, and what programs take for granted. */
const FOLDERS = [
  '/build',
  '/dev',
  '/etc',
  '/home',
  '/proc',
  '/root',
  '/run',
  '/sys',
  '/tmp',
  '/var/tmp',
]
/** What the linker opens by itself; plugins of other compilers lie beside them, and come with those. */
const LINKER_FILES = ['/usr/lib/bfd-plugins/liblto_plugin.so', '/usr/lib/bfd-plugins/libdep.so']
const LINKER_TREES = LIBRARY_TRIPLETS.map((triplet) => `/usr/lib/${triplet}/ldscripts`)
/** Sealed builds look for programs here. */
const BUILD_PATH = ['/usr/bin', '/bin']
const SEARCH_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
const SCRIPT_LINE_BYTES = 256
const LINKER_SCRIPT_BYTES_MAX = 64 * 1024
const WARNINGS_MAX = 100
const SKIPPED = new Set(['__pycache__'])

export interface Captured {
  readonly picked: Picked
  readonly warnings: readonly string[]
}

/** `tools`: names of programs, or paths of files and directories. Throws MESH0205 for what is not here. */
export async function captureTools(
  deps: { readonly clock: Clock },
  tools: readonly string[],
  options: { readonly hasBase: boolean; readonly path: string | undefined },
): Promise<Captured> {
  const capture = new Capture(deps.clock, (options.path ?? SEARCH_PATH).split(':'))
  for (const tool of tools) await capture.tool(tool)
  if (options.hasBase) await capture.base()
  return capture.end()
}

class Capture {
  readonly #clock: Clock
  readonly #path: readonly string[]
  readonly #picked = new Picked()
  readonly #libraries = new Libraries()
  readonly #warnings = new Set<string>()
  readonly #asked = new Set<string>()
  /** Files whose needs are to be looked at. */
  readonly #open: { readonly path: string; readonly rpaths: readonly string[] }[] = []
  #needsLoaderCache = false
  /** By interpreter: a script of it that was taken. */
  readonly #scripts = new Map<string, string>()

  constructor(clock: Clock, path: readonly string[]) {
    this.#clock = clock
    // What builds find comes first: a wrapper in somebody's home is not what they would run.
    const rest = path.filter((directory) => directory.startsWith('/'))
    this.#path = [...new Set([...BUILD_PATH, ...rest])]
  }

  async tool(tool: string): Promise<void> {
    const path = this.#locate(tool)
    if (path === undefined)
      throw new MeshError('MESH0205', `there is no ${JSON.stringify(tool)} on this machine`, {
        hints: [`looked in ${this.#path.join(':')}`, 'install it, or give its path'],
      })
    const found = this.#picked.reach(path, tool)
    if (found?.stat.isDirectory() === true) this.#tree(path, tool)
    else await this.#program(path, tool)
    if (!tool.includes('/') && !BUILD_PATH.includes(dirname(path)))
      this.#warn(`${tool} is at ${path}, where builds do not look: call it by its path`)
  }

  async base(): Promise<void> {
    for (const name of BASE_PROGRAMS) {
      const path = this.#locate(name)
      if (path !== undefined) await this.#program(path, 'base')
    }
    for (const path of BASE_FILES) this.#file(path, 'base')
  }

  end(): Captured {
    for (const [program, script] of this.#scripts)
      if (!this.#asked.has(this.#picked.reach(program, 'base')?.path ?? program))
        this.#warn(
          `${script} is a script of ${program}, whose modules are not taken: capture ${basename(program)} as well`,
        )
    if (this.#needsLoaderCache) this.#file('/etc/ld.so.cache', 'libraries')
    for (const path of FOLDERS) if (this.#picked.reach(path, 'folders')) this.#picked.folder(path)
    for (const path of FOLDERS) this.#picked.folder(path)
    return { picked: this.#picked, warnings: [...this.#warnings] }
  }

  #locate(tool: string): string | undefined {
    const scratch = new Picked()
    const candidates = tool.startsWith('/')
      ? [tool]
      : tool.includes('/')
        ? []
        : this.#path.map((directory) => join(directory, tool))
    return candidates.find((path) => scratch.reach(path, '') !== undefined)
  }

  /** A program, and what it says that it needs. */
  async #program(path: string, group: string): Promise<void> {
    this.#file(path, group)
    const names = this.#namesOf(path)
    const real = this.#picked.reach(path, group)?.path ?? path
    if (this.#asked.has(real)) return
    this.#asked.add(real)
    if (names.some(isCompiler)) await this.#compiler(path, group)
    if (names.some((name) => /^perl(?:5[.\d]*)?$/.test(name)))
      await this.#interpreter([path, '-e', 'print join("\\n", @INC)'], group)
    if (names.some((name) => /^python(?:\d[.\d]*)?$/.test(name)))
      await this.#interpreter(
        [
          path,
          '-I',
          '-S',
          '-c',
          'import sysconfig as s; print(s.get_path("stdlib")); print(s.get_path("platstdlib"))',
        ],
        group,
      )
    if (names.some((name) => /(?:^|-)ld(?:\.bfd)?$/.test(name))) {
      for (const file of LINKER_FILES) this.#file(file, group)
      for (const tree of LINKER_TREES) this.#tree(tree, group)
    }
  }

  /** The names of the links that lead to it, and its own. */
  #namesOf(path: string): string[] {
    const links = new Picked()
    const real = links.reach(path, '')
    return [path, ...links.all.keys(), real?.path ?? path].map((one) => basename(one))
  }

  /** Makefiles say `cc` to what was asked for as `gcc`. */
  #aliases(path: string, group: string): void {
    const real = this.#picked.reach(path, group)?.path
    for (const directory of BUILD_PATH)
      for (const name of namesIn(directory)) {
        const alias = join(directory, name)
        if (isCompiler(name) && new Picked().reach(alias, '')?.path === real)
          this.#picked.reach(alias, group)
      }
  }

  async #compiler(path: string, group: string): Promise<void> {
    this.#aliases(path, group)
    const parts = await askCompiler(this.#clock, path, (text) => this.#warn(text))
    for (const directory of parts.libraryDirectories) this.#libraries.addDirectory(directory)
    for (const file of parts.files) this.#file(file, group)
    for (const program of parts.programs) {
      const found = this.#locate(program)
      if (found !== undefined) await this.#program(found, group)
    }
    for (const tree of parts.trees) this.#tree(tree, group)
  }

  async #interpreter(argv: readonly string[], group: string): Promise<void> {
    const answer = await askTool(this.#clock, argv, (text) => this.#warn(text))
    for (const line of new Set((answer ?? '').split('\n')))
      if (line.startsWith('/')) this.#tree(line, group)
  }

  #tree(path: string, group: string): void {
    for (const file of this.#picked.tree(path, group, SKIPPED))
      this.#open.push({ path: file, rpaths: [] })
    this.#drain(group)
  }

  #file(path: string, group: string): void {
    const file = this.#picked.file(path, group)
    if (file === undefined) return
    this.#open.push({ path: file, rpaths: [] })
    this.#drain(group)
  }

  #drain(group: string): void {
    for (let next = this.#open.pop(); next !== undefined; next = this.#open.pop())
      this.#follow(next.path, next.rpaths, group)
  }

  #follow(path: string, rpaths: readonly string[], group: string): void {
    const elf = readElf(path)
    if (elf === undefined) {
      this.#followText(path, group)
      return
    }
    const take = (file: string, inherited: readonly string[]): void => {
      const real = this.#picked.file(file, 'libraries')
      if (real !== undefined) this.#open.push({ path: real, rpaths: inherited })
    }
    if (elf.interpreter !== undefined) take(elf.interpreter, [])
    const inherited = elf.runpath.length > 0 ? [] : [...elf.rpath, ...rpaths]
    for (const name of elf.needed) {
      const library = this.#libraries.find(name, { elf, path, rpaths })
      if (library === undefined) {
        this.#warn(`${name}, which ${path} needs, was not found`)
        continue
      }
      const isTold = [...elf.runpath, ...inherited].length > 0
      if (!isTold && !this.#libraries.isDefault(dirname(library), elf))
        this.#needsLoaderCache = true
      take(library, inherited)
    }
  }

  /** Scripts name their interpreter, linker scripts the libraries that they stand for. */
  #followText(path: string, group: string): void {
    const head = headOf(path)
    if (head.startsWith('#!')) {
      const words = (head.slice(2).split('\n')[0] ?? '').trim().split(/\s+/)
      const [interpreter = '', ...args] = words
      const isEnv = basename(interpreter) === 'env'
      const name = args.find((arg) => !arg.startsWith('-') && !arg.includes('='))
      this.#file(interpreter, group)
      const named = isEnv && name !== undefined ? this.#locate(name) : undefined
      if (named !== undefined) this.#file(named, group)
      const program = named ?? interpreter
      if (/\/(?:perl|python)[\d.]*$/.test(program) && !this.#scripts.has(program))
        this.#scripts.set(program, path)
      return
    }
    if (!/\.(?:so|a)$/.test(path) || !head.includes('GNU ld script')) return
    const text = readFileSync(path, 'utf8').slice(0, LINKER_SCRIPT_BYTES_MAX)
    const words = text.replaceAll(/\/\*[\s\S]*?\*\//g, ' ').split(/[\s(),]+/)
    for (const word of words) {
      if (word.startsWith('/')) this.#file(word, group)
      else if (/^lib[^/]*\.(?:so|a)/.test(word)) this.#file(join(dirname(path), word), group)
    }
  }

  #warn(text: string): void {
    if (this.#warnings.size < WARNINGS_MAX) this.#warnings.add(text)
  }
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory)
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'EACCES', 'ENOTDIR')) return []
    throw error
  }
}

/** The first bytes of a file; empty where it cannot be read. */
function headOf(path: string): string {
  try {
    const file = openSync(path, 'r')
    try {
      const bytes = Buffer.alloc(SCRIPT_LINE_BYTES)
      return bytes.toString('latin1', 0, readSync(file, bytes, 0, bytes.byteLength, 0))
    } finally {
      closeSync(file)
    }
  } catch (error) {
    if (hasCode(error, 'EACCES', 'EPERM', 'ENOENT')) return ''
    throw error
  }
}
