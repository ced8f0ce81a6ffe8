-- Pages have checksums from here on, which older programs would leave behind as they change a page: they refuse the
-- file by this entry in its list of versions.
SELECT 1;
